"""Colours become types, and a colour that nobody listed is refused unless it is antialiasing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dataloader.annotations import AnnotatedImage, open_annotations

BLACK, YELLOW, RED = (0, 0, 0), (255, 255, 0), (255, 0, 0)


def read(root: Path, mask: np.ndarray, **options: Any) -> AnnotatedImage:
    for folder, pixels in (("images", np.zeros_like(mask)), ("masks", mask)):
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / folder / "a.png")
    return open_annotations("colour_masks", root, mpp=0.5, **options).read("All", "a")


def draw(*boxes: tuple[tuple[int, int, int, int], tuple[int, int, int]]) -> np.ndarray:
    mask = np.zeros((40, 40, 3), np.uint8)
    for (top, left, bottom, right), colour in boxes:
        mask[top:bottom, left:right] = colour
    return mask


def test_the_default_colours_are_black_yellow_and_red(tmp_path: Path) -> None:
    item = read(tmp_path, draw(((1, 1, 5, 5), YELLOW), ((9, 9, 15, 15), RED)))
    assert open_annotations("colour_masks", tmp_path, mpp=0.5).class_names == ("background", "yellow", "red")
    assert [item.type_map[1, 1], item.type_map[9, 9], item.type_map[0, 0]] == [1, 2, 0]


def test_touching_nuclei_of_two_types_are_two_and_a_corner_does_not_join(tmp_path: Path) -> None:
    item = read(tmp_path, draw(((1, 1, 5, 5), YELLOW), ((1, 5, 5, 9), RED), ((5, 9, 9, 12), RED)))
    assert item.label_map.max() == 3


def test_the_background_may_have_another_colour(tmp_path: Path) -> None:
    mask = np.full((20, 20, 3), 255, np.uint8)
    mask[4:9, 4:9] = (0, 128, 0)
    item = read(tmp_path, mask, colours={"nucleus": [0, 128, 0], "background": [255, 255, 255]})
    np.testing.assert_array_equal(item.type_map, (mask[..., 0] == 0).astype(np.uint8))


def test_an_unknown_colour_is_named(tmp_path: Path) -> None:
    mask = draw(((1, 1, 5, 5), YELLOW), ((9, 9, 12, 12), (0, 0, 255)))
    with pytest.raises(
        ValueError, match=r"a.png: 1 pixels .* most of them \[0, 0, 255\]; add it to data.colours"
    ):
        read(tmp_path, mask)


def test_an_antialiased_rim_gets_the_closest_of_its_neighbours_colours(tmp_path: Path) -> None:
    mask = draw(((10, 10, 20, 20), YELLOW))
    mask[9, 10:20] = (200, 200, 0)
    mask[20, 10:20] = (60, 60, 0)
    mask[10:20, 9] = (130, 130, 0)  # nearer to orange below, which does not occur beside it
    item = read(tmp_path, mask, colours={"yellow": list(YELLOW), "orange": [130, 120, 0]})
    expected = np.zeros((40, 40), np.uint8)
    expected[9:20, 10:20] = 1
    expected[10:20, 9] = 1
    np.testing.assert_array_equal(item.type_map, expected)
    assert item.label_map.max() == 1


def test_antialiased_discs_keep_their_number(tmp_path: Path) -> None:
    mask = np.zeros((300, 300, 3), np.uint8)
    for x in range(30, 300, 60):
        for y in range(30, 300, 60):
            cv2.circle(mask, (x, y), 12, RED if (x + y) % 120 else YELLOW, -1, cv2.LINE_AA)
    item = read(tmp_path, mask)
    assert item.label_map.max() == 25


def test_a_mask_that_lost_its_colours_is_refused(tmp_path: Path) -> None:
    mask = draw(((4, 4, 30, 30), YELLOW))
    mask[::2, ::2] = (9, 9, 9)
    with pytest.raises(
        ValueError, match=r"400 pixels .* most of them \[9, 9, 9\].* or save the mask without"
    ):
        read(tmp_path, mask)


@pytest.mark.parametrize(
    ("colours", "message"),
    [
        ({"a": [0, 0]}, r"a=\[0, 0\] must be \[red, green, blue\]"),
        ({"a": [0, 0, 256]}, "each 0..255"),
        ({"a": [0, 0, 0]}, "gives one colour to two types"),
        ({"background": [0, 0, 0]}, "must be background and then the name of each type"),
    ],
)
def test_malformed_tables_of_colours_are_refused(tmp_path: Path, colours: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_annotations("colour_masks", tmp_path, mpp=0.5, colours=colours)


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    read(tmp_path, draw())
    Image.fromarray(np.zeros((9, 40, 3), np.uint8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"a.png is \(9, 40\), the image \(40, 40\)"):
        open_annotations("colour_masks", tmp_path, mpp=0.5).read("All", "a")
