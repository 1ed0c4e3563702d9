"""NuInsSeg's folders: what the contract of the adapters does not reach."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from dataloader.annotations import open_annotations
from tests.published import PUBLISHED

NAME = "human_bladder_01"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    PUBLISHED["nuinsseg"](tmp_path)
    return tmp_path


def test_plain_label_masks_serve_where_there_are_no_modified_ones(root: Path) -> None:
    shutil.rmtree(root / "human bladder" / "label masks modify")
    assert (open_annotations("nuinsseg", root).read("All", NAME).label_map == 1).all()


def test_the_resolution_can_be_given(root: Path) -> None:
    assert open_annotations("nuinsseg", root).mpp == 0.25
    assert open_annotations("nuinsseg", root, mpp=0.2).mpp == 0.2


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_label_maps_of_any_type_are_read(root: Path, dtype: type) -> None:
    expected = np.zeros((40, 50), np.int32)
    expected[3:7, 3:7] = 1
    path = root / "human bladder" / "label masks modify" / f"{NAME}.tif"
    tifffile.imwrite(path, (expected * 77).astype(dtype))
    np.testing.assert_array_equal(open_annotations("nuinsseg", root).read("All", NAME).label_map, expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((40, 50), -2, np.int16), "holds -2"),
        (np.full((40, 50), 0.5, np.float32), "holds values that are not whole numbers"),
        (np.ones((40, 40), np.uint16), r"is \(40, 40\), the image \(40, 50\)"),
        (np.ones((40, 50, 3), np.uint8), r"is uint8 of shape \(40, 50, 3\); an \(H, W\) map"),
    ],
)
def test_malformed_labels_name_file_and_fault(root: Path, values: np.ndarray, message: str) -> None:
    tifffile.imwrite(root / "human bladder" / "label masks modify" / f"{NAME}.tif", values)
    with pytest.raises(ValueError, match=f"{NAME}.tif {message}"):
        open_annotations("nuinsseg", root).read("All", NAME)
