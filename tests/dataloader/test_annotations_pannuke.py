"""PanNuke's channels become one label map, and its files must belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataloader.annotations import open_annotations
from dataloader.annotations.pannuke import stack_channels
from tests.published.pannuke import publish_pannuke


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish_pannuke(tmp_path)
    return tmp_path


def binarize(mask: np.ndarray) -> np.ndarray:
    """The authors' definition, nucleus by nucleus: a later one takes the pixels of an earlier one."""
    label_map = np.zeros(mask.shape[:2], np.int32)
    count = 0
    for channel in range(5):
        for number in np.unique(mask[..., channel])[1:]:
            count += 1
            label_map[mask[..., channel] == number] = count
    return label_map


def test_one_id_in_two_channels_is_two_nuclei_and_the_later_channel_lies_on_top() -> None:
    mask = np.zeros((4, 6, 6))
    mask[0:2, 0:4, 0] = 7
    mask[1:3, 2:6, 4] = 7
    mask[3, :, 5] = 1
    label_map, type_map = stack_channels("mask", mask)
    assert label_map.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 2, 2, 2, 2], [0, 0, 2, 2, 2, 2], [0] * 6]
    assert type_map.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 5, 5, 5, 5], [0, 0, 5, 5, 5, 5], [0] * 6]


@pytest.mark.parametrize("seed", range(10))
def test_overlapping_channels_are_stacked_as_the_authors_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 4, (12, 12, 6)) * (rng.random((12, 12, 6)) < 0.3) * 90
    label_map, type_map = stack_channels("mask", mask.astype(float))
    expected = binarize(mask)
    np.testing.assert_array_equal(label_map, np.unique(expected, return_inverse=True)[1].reshape(12, 12))
    last = np.array([0, 1, 2, 3, 4, 5])[((mask[..., :5] > 0) * np.arange(1, 6)).max(axis=2)]
    np.testing.assert_array_equal(type_map, last)


def test_a_nucleus_under_others_leaves_no_gap_in_the_ids() -> None:
    mask = np.zeros((3, 3, 6))
    mask[1, 1, 0] = 1
    mask[1, 1:, 2] = 1
    label_map, type_map = stack_channels("mask", mask)
    assert label_map.max() == 1 and type_map.max() == 3


def test_only_the_images_that_are_read_are_loaded(root: Path) -> None:
    adapter = open_annotations("pannuke", root)
    adapter.list_names("fold1")
    assert isinstance(adapter._folds["fold1"].images, np.memmap)  # type: ignore[attr-defined]


def change(path: Path, index: Any, value: float) -> None:
    values = np.load(path)
    values[index] = value
    np.save(path, values)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("masks", -1, "image 0: channel 2 holds -1"),
        ("masks", 0.5, "image 0: channel 2 holds values that are not whole"),
        ("images", 300, "image 0 has values outside 0..255"),
        ("images", np.nan, "image 0 has values outside 0..255"),
    ],
)
def test_malformed_values_name_file_and_image(root: Path, kind: str, value: float, message: str) -> None:
    path = root / "fold1" / kind / "fold1" / f"{kind}.npy"
    change(path, (0, 3, 3, 2), value)
    with pytest.raises(ValueError, match=f"{kind}.npy: {message}"):
        open_annotations("pannuke", root).read("fold1", "fold1_0")


def test_files_of_two_folds_are_refused(root: Path) -> None:
    (root / "fold1" / "masks" / "fold1" / "masks.npy").write_bytes(
        (root / "Fold 3" / "masks" / "fold3" / "masks.npy").read_bytes()
    )
    with pytest.raises(ValueError, match="masks.npy: .* do not belong together"):
        open_annotations("pannuke", root).list_names("fold1")


def test_a_missing_file_says_what_to_do(root: Path) -> None:
    (root / "fold1" / "images" / "fold1" / "types.npy").unlink()
    with pytest.raises(FileNotFoundError, match="types.npy: no such file; unpack all files of the fold"):
        open_annotations("pannuke", root).list_names("fold1")


def test_pickled_objects_are_refused(root: Path) -> None:
    path = root / "fold1" / "images" / "fold1" / "types.npy"
    np.save(path, np.load(path).astype(object))
    with pytest.raises(ValueError, match="types.npy: .*save numbers, not objects"):
        open_annotations("pannuke", root).list_names("fold1")
