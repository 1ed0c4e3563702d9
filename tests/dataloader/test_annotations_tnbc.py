"""TNBC's folders: what the contract of the adapters does not reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataloader.annotations import open_annotations
from tests.published import PUBLISHED


@pytest.fixture
def root(tmp_path: Path) -> Path:
    PUBLISHED["tnbc"](tmp_path)
    return tmp_path


def read_mask(root: Path, mask: np.ndarray) -> np.ndarray:
    """Return the label map of an image with that mask."""
    Image.fromarray(mask).save(root / "GT_01" / "01_1.png")
    return open_annotations("tnbc", root).read("All", "01_1").label_map


def test_regions_that_meet_at_a_corner_are_two_nuclei(root: Path) -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[0:3, 0:3] = mask[3:6, 3:6] = 255
    label_map = read_mask(root, mask)
    assert (label_map[0, 0], label_map[5, 5], label_map.max()) == (1, 2, 2)


def test_touching_regions_of_two_colours_are_two_nuclei(root: Path) -> None:
    mask = np.zeros((40, 50, 4), np.uint8)
    mask[..., 3] = 255
    mask[0:3, 0:3] = (255, 0, 0, 255)
    mask[0:3, 3:6] = (0, 255, 0, 255)
    mask[9:12, 9:12] = (255, 0, 0, 255)
    label_map = read_mask(root, mask)
    assert (label_map[0, 0], label_map[0, 5], label_map[9, 9], label_map.max()) == (1, 2, 3, 3)


def test_a_mask_without_nuclei_gives_none(root: Path) -> None:
    assert not read_mask(root, np.zeros((40, 50), np.uint8)).any()


def test_a_mask_of_another_size_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"01_1.png is \(40, 51\), the image \(40, 50\)"):
        read_mask(root, np.zeros((40, 51), np.uint8))


def test_an_image_without_a_mask_is_refused_by_name(root: Path) -> None:
    (root / "GT_11" / "11_1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"GT_11.11_1.png: no labels for image 11_1.png"):
        open_annotations("tnbc", root).list_names("All")
