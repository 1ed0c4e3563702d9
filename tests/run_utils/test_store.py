"""The store: the layout that TIAToolbox reads, said in SQL and well-known binary; what each row holds."""

import errno
import json
import sqlite3
import tracemalloc
import zlib
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import shapely

from benchmarks.synthetic_slide import DrawnSlide
from run_utils.outputs import store
from run_utils.outputs.facts import Facts
from run_utils.outputs.measures import measure
from tests.results import TYPES, ellipses, make_result

COLUMNS = {
    "annotations": ["id", "key", "objtype", "cx", "cy", "geometry", "properties", "area"],
    "rtree": ["id", "min_x", "max_x", "min_y", "max_y"],
    "metadata": ["key", "value"],
}


def rows(path, query):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def polygons(path):
    """Every polygon by id, read by a library that has nothing to do with the writer."""
    found = rows(path, "SELECT id, geometry FROM annotations ORDER BY id")
    return {key: shapely.from_wkb(zlib.decompress(geometry)) for key, geometry in found}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tile.db"


def test_tables_are_those_of_the_annotation_store(path):
    store.write(make_result(ellipses()), path)
    for table, columns in COLUMNS.items():
        assert [row[1] for row in rows(path, f"PRAGMA table_info({table})")] == columns
    metadata = dict(rows(path, "SELECT key, value FROM metadata"))
    assert json.loads(metadata["version"]) == "1.0.1"
    assert json.loads(metadata["compression"]) == "zlib"
    assert isinstance(json.loads(metadata["compression_level"]), int)
    assert rows(path, "SELECT DISTINCT objtype FROM annotations") == [("Polygon",)]


def test_file_and_spatial_index_pass_sqlites_own_checks(path):
    store.write(make_result(ellipses(), region_size=32), path)
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "SELECT rtreecheck('rtree')") == [("ok",)]
    assert rows(path, "SELECT id FROM rtree ORDER BY id") == rows(
        path, "SELECT id FROM annotations ORDER BY id"
    )


@pytest.mark.parametrize("level0_scale", [1.0, 2.0, 0.5, 0.499 / 0.25])
def test_polygons_hold_the_nuclei_in_level0_pixels(path, level0_scale):
    label_map = ellipses()
    result = make_result(label_map, level0_scale=level0_scale)
    store.write(result, path)
    found = polygons(path)
    painted = result.whole_label_map()
    areas = dict(rows(path, "SELECT id, area FROM annotations"))
    assert sorted(found) == result.whole_nuclei().ids.tolist()
    for key, polygon in found.items():
        y, x = np.nonzero(painted == key)
        assert polygon.is_valid
        assert shapely.contains_xy(polygon, (x + 0.5) * level0_scale, (y + 0.5) * level0_scale).all()
        assert polygon.area == pytest.approx(len(y) * level0_scale**2, rel=1e-3)
        assert areas[key] == pytest.approx(len(y) * level0_scale**2)


def test_a_box_finds_the_nuclei_that_reach_into_it(path):
    store.write(make_result(ellipses(), level0_scale=2.0), path)
    left, top, right, bottom = 30, 20, 90, 80
    query = f"SELECT id FROM rtree WHERE max_x > {left} AND max_y > {top} AND min_x < {right} AND min_y < {bottom}"
    inside = {
        key
        for key, polygon in polygons(path).items()
        if polygon.bounds[2] > left
        and polygon.bounds[3] > top
        and polygon.bounds[0] < right
        and polygon.bounds[1] < bottom
    }
    assert {key for (key,) in rows(path, query)} == inside
    assert 0 < len(inside) < len(polygons(path))


def test_properties_hold_type_share_probabilities_and_area(path):
    result = make_result(ellipses(), mpp=0.5)
    store.write(result, path)
    nuclei = result.whole_nuclei()
    painted = result.whole_label_map()
    for row, (key, text) in enumerate(rows(path, "SELECT key, properties FROM annotations ORDER BY id")):
        properties = json.loads(text)
        kind = nuclei.types[row]
        assert key == str(properties["id"]) == str(nuclei.ids[row])
        assert properties["type"] == TYPES[kind].name
        assert properties["type_index"] == kind
        assert properties["prob"] == pytest.approx(nuclei.type_shares[row], abs=1e-6)
        assert properties["area_um2"] == pytest.approx(0.25 * (painted == nuclei.ids[row]).sum())
        for index, type_ in enumerate(TYPES):
            expected = nuclei.type_probabilities[row, index]
            assert properties[f"probability_{type_.name}"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("region_size", [4096, 32])
def test_holes_do_not_count_as_area(path, region_size, monkeypatch):
    monkeypatch.setattr(store, "BATCH", 3)
    label_map = ellipses()
    label_map[10:13, 8:12] = 0  # 12 pixels in the midst of the first
    result = make_result(label_map, mpp=0.5, region_size=region_size)
    store.write(result, path)
    found = rows(path, "SELECT json_extract(properties, '$.area_um2') FROM annotations ORDER BY id")
    areas = [area for (area,) in found]
    painted = result.whole_label_map()
    assert areas == [0.25 * count for count in np.bincount(painted[painted > 0])[1:]]
    assert areas == [0.25 * area for part in result.parts() for area in measure(part).area]
    polygon = polygons(path)[painted[7, 10]]
    assert polygon.area * 0.25 - areas[painted[7, 10] - 1] == 12 * 0.25


def test_a_full_disk_is_an_error_of_the_system_with_the_files_path(path, monkeypatch):
    monkeypatch.setattr(store, "WHILE_WRITING", (*store.WHILE_WRITING, "PRAGMA max_page_count = 9"))
    with pytest.raises(OSError, match=r"No space left on device.*tile\.db") as refusal:
        store.write(make_result(ellipses()), path)
    assert refusal.value.errno == errno.ENOSPC


def test_a_folder_that_is_not_there_is_an_error_of_the_system_with_the_files_path(tmp_path):
    with pytest.raises(OSError, match=r"missing/tile\.db cannot be written: unable to open"):
        store.write(make_result(ellipses()), tmp_path / "missing" / "tile.db")


def test_what_is_not_known_is_left_out_of_the_properties(path):
    store.write(make_result(ellipses(), types=None, mpp=None), path)
    for (text,) in rows(path, "SELECT properties FROM annotations"):
        assert list(json.loads(text)) == ["id"]


def test_what_a_killed_run_left_is_replaced(path):
    store.write(make_result(ellipses()), path)
    path.write_bytes(path.read_bytes()[:5000])
    store.write(make_result(ellipses(num_nuclei=3)), path)
    assert len(store.read(path).nuclei) == 3


def test_memory_does_not_grow_with_the_number_of_parts(path):
    def peak(num_nuclei, side):
        drawn = DrawnSlide.draw(num_nuclei, side)
        tracemalloc.start()
        store.write(drawn.result(rows_per_part=4), path)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top / len(drawn.types)  # parts are as long as the slide is wide

    assert peak(8000, 4000) < 1.5 * peak(2000, 2000)


def test_stored_facts_tell_slide_and_types(path):
    result = replace(make_result(ellipses(), level0_scale=2.0), name="slide 'ü'")
    store.write(result, path)
    with closing(store.open_store(path)) as connection:
        slide = store.read_slide(connection, path)
    assert slide == store.StoredSlide("slide 'ü'", (90, 120), Facts(0.25, 2.0, TYPES))


def test_a_missing_store_is_said_to_be_missing(path):
    with pytest.raises(FileNotFoundError, match=r"tile\.db is not there; write it with outputs=\[store\]"):
        store.read(path)


def test_a_file_that_is_no_database_is_refused(path):
    path.write_text("id,type\n1,2\n" * 200)
    with pytest.raises(ValueError, match="is not a store of nuclei"):
        store.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("DROP TABLE annotations", "is not a store of nuclei"),
        ("DELETE FROM metadata WHERE key = 'hovernet'", "of another program"),
    ],
)
def test_a_database_of_another_layout_is_refused(path, change, message):
    store.write(make_result(ellipses()), path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(change)
        connection.commit()
    with pytest.raises(ValueError, match=message):
        store.read(path)
