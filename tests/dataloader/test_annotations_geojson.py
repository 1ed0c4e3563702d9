"""QuPath's features become nuclei, one each, and what is no nucleus is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataloader.annotations import AnnotatedImage, open_annotations
from tests.published.outlined import make_feature, rectangle

NAMES = ("background", "Tumor", "Immune cells: CD3")


def read(root: Path, content: Any, names: tuple[str, ...] = NAMES) -> AnnotatedImage:
    for folder in ("images", "geojson"):
        (root / folder).mkdir(exist_ok=True)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / "images" / "a.png")
    (root / "geojson" / "a.geojson").write_text(json.dumps(content))
    return open_annotations("geojson", root, mpp=0.25, class_names=names).read("All", "a")


def test_a_multipolygon_is_one_nucleus(tmp_path: Path) -> None:
    parts = [[rectangle(1, 1, 4, 4)], [rectangle(6, 1, 9, 4)]]
    item = read(tmp_path, [make_feature(parts, "Tumor")])
    assert item.label_map.max() == 1
    assert (item.label_map > 0).sum() == 18
    assert set(item.type_map[item.label_map == 1]) == {1}


def test_a_nucleus_in_the_hole_of_another_stays_apart(tmp_path: Path) -> None:
    ring = make_feature([[rectangle(1, 1, 11, 11), rectangle(3, 3, 9, 9)]], "Tumor")
    inner = make_feature([[rectangle(3, 3, 9, 9)]], "Immune cells: CD3")
    item = read(tmp_path, {"type": "FeatureCollection", "features": [ring, inner]})
    assert np.bincount(item.label_map.ravel())[1:].tolist() == [100 - 36, 36]
    assert (item.type_map[3:9, 3:9] == 2).all()


def test_the_later_of_two_that_overlap_lies_on_top(tmp_path: Path) -> None:
    features = [make_feature([[rectangle(x, 1, x + 6, 7)]], "Tumor") for x in (1, 4)]
    assert read(tmp_path, features).label_map[1].tolist()[:11] == [0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0]


def test_the_nucleus_of_a_cell_is_taken(tmp_path: Path) -> None:
    feature = make_feature([[rectangle(1, 1, 19, 19)]], "Tumor")
    feature["nucleusGeometry"] = {"type": "Polygon", "coordinates": [rectangle(5, 5, 9, 9)]}
    assert (read(tmp_path, [feature]).label_map > 0).sum() == 16


def test_a_derived_classification_has_the_name_that_qupath_shows(tmp_path: Path) -> None:
    feature = make_feature([[rectangle(1, 1, 4, 4)]], "")
    feature["properties"]["classification"] = {"names": ["Immune cells", "CD3"]}
    assert read(tmp_path, [feature]).type_map.max() == 2


def test_outlines_without_classes_have_no_types(tmp_path: Path) -> None:
    feature = make_feature([[rectangle(1, 1, 4, 4)]], "")
    feature["properties"] = None
    assert read(tmp_path, feature, names=()).type_map is None


def test_an_image_without_nuclei_is_read(tmp_path: Path) -> None:
    item = read(tmp_path, {"type": "FeatureCollection", "features": []})
    assert not item.label_map.any() and not item.type_map.any()


def with_geometry(kind: str, coordinates: Any) -> dict[str, Any]:
    return {
        **make_feature([[rectangle(1, 1, 4, 4)]], "Tumor"),
        "geometry": {"type": kind, "coordinates": coordinates},
    }


@pytest.mark.parametrize(
    ("content", "names", "message"),
    [
        (
            [make_feature([[rectangle(1, 1, 4, 4)]], "Stroma")],
            NAMES,
            "feature 0 is a 'Stroma', which data.class_names=",
        ),
        ([make_feature([[rectangle(1, 1, 4, 4)]], "background")], NAMES, "feature 0 is a 'background'"),
        (
            [make_feature([[rectangle(1, 1, 4, 4)]], "")],
            NAMES,
            "feature 0 has no classification; give it one",
        ),
        (
            [make_feature([[rectangle(1, 1, 4, 4)]], "Tumor")],
            (),
            r"set data.class_names=\[background,Tumor,…\]",
        ),
        (
            [with_geometry("Point", [1, 2])],
            NAMES,
            "feature 0 is a Point; a nucleus is a Polygon or MultiPolygon",
        ),
        ([with_geometry("Polygon", [[1, 2]])], NAMES, "feature 0: coordinates that are no rings"),
        ([with_geometry("Polygon", [])], NAMES, "feature 0 has no outline"),
        ([with_geometry("MultiPolygon", [])], NAMES, "feature 0 has no outline"),
        ([with_geometry("Polygon", None)], NAMES, "feature 0: coordinates that are no rings"),
        ({"type": "Topology"}, NAMES, "no FeatureCollection or list of features"),
        ([1, 2], NAMES, "no FeatureCollection or list of features"),
    ],
)
def test_what_is_no_nucleus_is_named(tmp_path: Path, content: Any, names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"a.geojson: {message}|a.geojson: .*{message}"):
        read(tmp_path, content, names)
