"""MoNuSeg's archives: what the contract of the adapters does not reach."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataloader.annotations import open_annotations
from tests.published import PUBLISHED
from tests.published.aperio import write_aperio_xml

NAME = "TCGA-18-5592-01Z-00-DX1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    PUBLISHED["monuseg"](tmp_path)
    return tmp_path


def write_rings(root: Path, rings: list) -> None:
    path = root / "MoNuSeg 2018 Training Data" / "Annotations" / f"{NAME}.xml"
    write_aperio_xml(path, {"": [np.array(ring, float) for ring in rings]})


def square(x: float, y: float, size: float) -> list:
    return [[x, y], [x + size, y], [x + size, y + size], [x, y + size]]


def test_one_archive_alone_has_the_split_all(root: Path) -> None:
    for folder in ("MoNuSeg 2018 Training Data", "MoNuSegTestData"):
        adapter = open_annotations("monuseg", root / folder)
        assert adapter.list_splits() == ["All"]
        assert len(adapter.list_names("All")) == 2


def test_an_archive_in_a_folder_of_its_own_name_is_found(root: Path) -> None:
    inner = root / "MoNuSeg 2018 Training Data"
    inner.rename(root / "inner")
    inner.mkdir()
    (root / "inner").rename(inner / "MoNuSeg 2018 Training Data")
    adapter = open_annotations("monuseg", root)
    assert adapter.list_splits() == ["Train", "Test"]
    assert NAME in adapter.list_names("Train")


def test_an_image_that_is_there_twice_is_refused(root: Path) -> None:
    shutil.copytree(root / "MoNuSeg 2018 Training Data", root / "train copy")
    with pytest.raises(ValueError, match=f"{NAME}.tif: split Train has .* of the same name"):
        open_annotations("monuseg", root)


def test_overlapping_and_touching_nuclei_stay_separate(root: Path) -> None:
    write_rings(root, [square(2, 2, 6), square(6, 2, 6), square(12, 2, 6)])
    label_map = open_annotations("monuseg", root).read("Train", NAME).label_map
    np.testing.assert_array_equal(label_map[4, :20], [0] * 2 + [1] * 4 + [2] * 6 + [3] * 6 + [0] * 2)


def test_a_nucleus_that_others_cover_is_named_and_the_ids_stay_whole(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rings(root, [square(0, 0, 3), square(10, 10, 2), square(9, 9, 5), square(-9, -9, 5)])
    with caplog.at_level(logging.WARNING):
        label_map = open_annotations("monuseg", root).read("Train", NAME).label_map
    assert np.unique(label_map).tolist() == [0, 1, 2]
    assert f"{NAME}.xml: 2 of 4 nuclei have no pixel" in caplog.text
    assert "annotation 1 region 2, annotation 1 region 4" in caplog.text


def test_an_image_without_nuclei_is_read(root: Path) -> None:
    write_rings(root, [])
    assert not open_annotations("monuseg", root).read("Train", NAME).label_map.any()


def test_an_image_without_annotations_is_refused_by_name(root: Path) -> None:
    (root / "MoNuSegTestData" / "TCGA-FG-A4MU-01B-01-TS1.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"TCGA-FG-A4MU-01B-01-TS1.xml: no labels for image"):
        open_annotations("monuseg", root).list_names("Test")


def test_a_coordinate_that_is_no_number_is_refused_with_file_and_region(root: Path) -> None:
    write_rings(root, [square(0, 0, 3), [[0, 0], [np.nan, 1], [1, 1]]])
    with pytest.raises(ValueError, match=f"{NAME}.xml: annotation 1 region 2: a ring with a coordinate"):
        open_annotations("monuseg", root).read("Train", NAME)
