from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import shapely

from dataloader.outlines import read_outlines, to_working

SQUARE = [[10, 20], [110, 20], [110, 120], [10, 120], [10, 20]]
HOLE = [[30, 40], [50, 40], [50, 60], [30, 60], [30, 40]]
POLYGON = {"type": "Polygon", "coordinates": [SQUARE, HOLE]}
FAR = {"type": "Polygon", "coordinates": [[[500, 500], [510, 500], [505, 520], [500, 500]]]}
BOTH = {"type": "MultiPolygon", "coordinates": [POLYGON["coordinates"], FAR["coordinates"]]}


def feature(geometry):
    return {
        "type": "Feature",
        "id": "6b5a",
        "geometry": geometry,
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}},
    }


def write(folder, content, name="regions.geojson"):
    path = folder / name
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"type": "FeatureCollection", "features": [feature(POLYGON), feature(FAR)]},
        feature(BOTH),
        [feature(POLYGON), feature(FAR), feature(None)],
        feature({"type": "GeometryCollection", "geometries": [POLYGON, FAR]}),
        BOTH,
        [POLYGON, FAR, POLYGON],
    ],
)
@pytest.mark.parametrize("name", ["a.geojson", "a.JSON", "a.geojson.gz"])
def test_every_wrapping_of_geojson_gives_the_same_polygons(tmp_path, content, name):
    path = write(tmp_path, content, name)
    outlines = read_outlines(path)
    assert outlines.area == 100 * 100 - 20 * 20 + 10 * 20 / 2
    inside = shapely.contains_xy(outlines, [20, 40, 505, 300], [30, 50, 505, 300])
    assert inside.tolist() == [True, False, True, False]
    assert shapely.equals(outlines, read_outlines(str(path)))


def test_a_third_coordinate_a_byte_order_mark_and_an_open_ring_do_no_harm(tmp_path):
    ring = [[*corner, 7.5] for corner in SQUARE[:-1]]
    content = b"\xef\xbb\xbf" + json.dumps({"type": "Polygon", "coordinates": [ring]}).encode()
    assert read_outlines(write(tmp_path, content)).area == 100 * 100


def test_boxes_are_x_y_width_height():
    outlines = read_outlines(" 100,20,30,5.5 ; 0,0,2,2;")
    assert outlines.area == 30 * 5.5 + 4
    assert shapely.contains_xy(outlines, [129, 1, 21], [25, 1, 101]).tolist() == [True, True, False]


def test_outlines_that_overlap_count_once():
    assert read_outlines("0,0,10,10;5,0,10,10").area == 150


def test_a_loop_drawn_by_a_shaky_hand_stays_inside(tmp_path):
    """The ring crosses itself and goes twice around a part, which must not become a hole."""
    ring = [[0, 0], [100, 0], [100, 60], [40, 60], [40, 40], [60, 40], [60, 100], [0, 100], [0, 0]]
    outlines = read_outlines(write(tmp_path, {"type": "Polygon", "coordinates": [ring]}))
    assert outlines.is_valid
    assert shapely.contains_xy(outlines, [50, 20, 90, 20], [50, 50, 50, 90]).all()
    assert not shapely.contains_xy(outlines, 90, 90)


def test_both_halves_of_a_figure_of_eight_stay(tmp_path):
    ring = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    assert read_outlines(write(tmp_path, {"type": "Polygon", "coordinates": [ring]})).area == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{ no json", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        ({"type": "FeatureCollection", "features": []}, "no polygon with an area"),
        (feature(None), "no polygon with an area"),
        ({"type": "Polygon", "coordinates": []}, "no polygon with an area"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [9, 9], [0, 0]]]}, "no polygon with an area"),
        (feature({"type": "Point", "coordinates": [3, 4]}), "a Point encloses no area"),
        (
            [feature(POLYGON), feature({"type": "LineString", "coordinates": SQUARE})],
            "a LineString encloses no",
        ),
        ({"type": "Circle", "coordinates": [3, 4]}, "'Circle' is no type of GeoJSON"),
        ({"features": []}, "is no type of GeoJSON"),
        (42, "'?42'? is no type of GeoJSON"),
        ({"type": "Polygon"}, "a Polygon has broken coordinates"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "a Polygon has broken coordinates"),
        ({"type": "Polygon", "coordinates": SQUARE}, "a Polygon has broken coordinates"),
        (
            {"type": "Polygon", "coordinates": [[["a", 0], [1, 1], [2, 0]]]},
            "a Polygon has broken coordinates",
        ),
        ({"type": "Polygon", "coordinates": [[[0], [1, 1], [2, 0]]]}, "a Polygon has broken coordinates"),
        ({"type": "MultiPolygon", "coordinates": [SQUARE]}, "a MultiPolygon has broken coordinates"),
        ({"type": "Polygon", "coordinates": {"x": 1}}, "a Polygon has broken coordinates"),
    ],
)
def test_a_file_without_regions_says_so_in_one_line(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_outlines(path)
    assert str(path) in str(caught.value) and "QuPath" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_gz_is_said(tmp_path):
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(POLYGON).encode())[:-20])
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_outlines(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,-3,4", "regions=1,2,-3,4 has no area: width and height must be above 0"),
        ("0,0,9,9;1,2,3,0", "regions=1,2,3,0 has no area"),
        ("1,2,nan,4", "has no area"),
        ("1,2,inf,4", "has no area"),
        ("1,2,3", "regions=1,2,3 is neither a box nor a file: boxes are written x,y,width,height"),
        ("tumour", "neither a box nor a file"),
        ("regions.xml", "neither a box nor a file"),
        ("", "no polygon with an area"),
    ],
)
def test_boxes_that_are_none_say_how_to_write_them(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_outlines(text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.geojson does not exist"):
        read_outlines(tmp_path / "none.geojson")


def test_regions_wholly_outside_of_the_slide_are_refused_and_partly_outside_are_not():
    assert read_outlines("-50,-50,100,100", (1000, 2000)).area == 100 * 100
    for text in ("2000,0,10,10", "0,1000,10,10", "-9,0,9,10"):
        with pytest.raises(ValueError, match="outside of the slide of 2000 x 1000"):
            read_outlines(text, (1000, 2000))


def test_level_0_pixels_become_working_pixels():
    working = to_working(read_outlines("100,20,30,50"), 2.5)
    np.testing.assert_allclose(shapely.bounds(working), [40, 8, 52, 28])
