"""MoNuSAC's archives: what the contract of the adapters does not reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataloader.annotations import open_annotations
from tests.published import PUBLISHED
from tests.published.aperio import write_aperio_xml

PATIENT = "TCGA-2Z-A9JG-01Z-00-DX1"
NAME = f"{PATIENT}_1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    PUBLISHED["monusac"](tmp_path / "data")
    return tmp_path / "data" / "MoNuSAC Testing Data and Annotations" / PATIENT


def square(x: float, y: float, size: float) -> np.ndarray:
    return np.array([[x, y], [x + size, y], [x + size, y + size], [x, y + size]])


def test_ambiguous_regions_are_background(folder: Path) -> None:
    rings = {
        "Ambiguous": [square(10, 10, 20)],
        "Lymphocyte": [square(2, 2, 4)],
        "neutrophil": [square(6, 2, 4)],
    }
    write_aperio_xml(folder / f"{NAME}.xml", rings)
    found = open_annotations("monusac", folder.parents[1]).read("Test", NAME)
    assert found.type_map is not None
    np.testing.assert_array_equal(found.label_map[3, :12], [0] * 2 + [1] * 4 + [2] * 4 + [0] * 2)
    np.testing.assert_array_equal(found.type_map[3, :12], [0] * 2 + [2] * 4 + [4] * 4 + [0] * 2)
    assert not found.label_map[10:].any()
    assert not found.type_map[10:].any()


@pytest.mark.parametrize("type_name", ["Eosinophil", "", "background"])
def test_an_unknown_type_is_refused_with_file_and_region(folder: Path, type_name: str) -> None:
    write_aperio_xml(folder / f"{NAME}.xml", {"Macrophage": [square(2, 2, 4)], type_name: [square(9, 9, 4)]})
    message = f"{NAME}.xml: annotation 2 region 1 is of type '{type_name}', .* one of: epithelial"
    with pytest.raises(ValueError, match=message):
        open_annotations("monusac", folder.parents[1]).read("Test", NAME)


def test_an_annotation_without_regions_may_have_any_name(folder: Path) -> None:
    write_aperio_xml(folder / f"{NAME}.xml", {"Layer 1": []})
    found = open_annotations("monusac", folder.parents[1]).read("Test", NAME)
    assert not found.label_map.any()


def test_the_svs_is_read_where_there_is_no_tif(folder: Path) -> None:
    adapter = open_annotations("monusac", folder.parents[1])
    before = adapter.read("Test", NAME)
    (folder / f"{NAME}.tif").unlink()
    after = open_annotations("monusac", folder.parents[1]).read("Test", NAME)
    np.testing.assert_array_equal(before.image, after.image)


def test_an_archive_alone_has_the_split_all(folder: Path) -> None:
    assert open_annotations("monusac", folder.parent).list_splits() == ["All"]


def test_an_image_without_annotations_is_refused_by_name(folder: Path) -> None:
    (folder / f"{NAME}.xml").unlink()
    with pytest.raises(FileNotFoundError, match=f"{NAME}.xml: no labels for image {NAME}.tif"):
        open_annotations("monusac", folder.parents[1]).list_names("Test")
