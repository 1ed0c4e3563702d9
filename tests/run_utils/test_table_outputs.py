import gzip
import json
import math
import tracemalloc
import uuid
from dataclasses import replace

import geojson
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from scipy import ndimage
from scipy.io import loadmat

from models.hovernet.describe import describe
from models.nuclei import NucleusType
from run_utils.outputs import WRITERS, PackedLabels, Part, parquet
from tests.results import ellipses, make_parts, make_result

TABLES = ("json", "geojson", "qupath", "parquet")
TYPES = (NucleusType("none", (1, 2, 3)), NucleusType("a", (255, 0, 0)), NucleusType("b", (0, 0, 255)))


@pytest.fixture
def result():
    """Two rectangles of rows 2-5, columns 3-9 (type 1) and rows 10-19, columns 20-24 (type 2)."""
    label_map = np.zeros((40, 60), np.int32)
    label_map[2:6, 3:10] = 1
    label_map[10:20, 20:25] = 2
    votes = np.stack([label_map == kind for kind in range(3)]).astype(np.float32)
    part = Part(describe(label_map, votes), PackedLabels.pack(label_map, (0, 0)), 40)
    empty = make_result(np.zeros((40, 60), np.int32), types=TYPES, mpp=0.5, level0_scale=2.0)
    return replace(empty, parts=lambda: iter([part]))


def write(result, tmp_path, name):
    path = tmp_path / f"file.{name}"
    WRITERS[name].write(result, path)
    return path


def read_json(result, tmp_path, name):
    data = write(result, tmp_path, name).read_bytes()
    return json.loads(gzip.decompress(data) if name == "geojson" else data)


def without_types(result):
    def parts():
        for part in result.parts():
            nuclei = replace(part.nuclei, types=None, type_shares=None, type_probabilities=None)
            yield replace(part, nuclei=nuclei)

    return replace(result, types=None, parts=parts)


def test_json_has_the_schema_of_the_reference(result, tmp_path):
    content = read_json(result, tmp_path, "json")
    assert content["mag"] == 20
    assert content["mpp"] == 0.5
    assert list(content["nuc"]) == ["1", "2"]
    nucleus = content["nuc"]["1"]
    assert nucleus["bbox"] == [[2, 3], [6, 10]]
    assert nucleus["centroid"] == [6.0, 3.5]
    assert sorted(nucleus["contour"]) == [[3, 2], [3, 5], [9, 2], [9, 5]]
    assert nucleus["type"] == 1
    assert nucleus["type_prob"] == 1.0
    assert nucleus["type_probabilities"] == [0.0, 1.0, 0.0]


def test_json_says_null_where_there_are_no_types_and_no_resolution(result, tmp_path):
    content = read_json(replace(without_types(result), mpp=None), tmp_path, "json")
    assert content["mag"] is None
    assert content["types"] is None
    assert content["nuc"]["2"]["type"] is None
    assert content["nuc"]["2"]["type_prob"] is None


def test_a_json_of_the_reference_reads(tmp_path):
    nucleus = {
        "bbox": [[1, 2], [4, 6]],
        "centroid": [3.5, 2.0],
        "contour": [[2, 1], [2, 3], [5, 3], [5, 1]],
        "type_prob": 0.9,
        "type": 4,
    }
    path = tmp_path / "reference.json"
    path.write_text(json.dumps({"mag": None, "nuc": {"7": nucleus}}))
    stored = WRITERS["json"].read(path)
    nuclei = stored.nuclei
    assert nuclei.ids.tolist() == [7]
    assert nuclei.centroids.tolist() == [[2.0, 3.5]]
    assert nuclei.boxes_yxyx.tolist() == [[1, 2, 4, 6]]
    assert nuclei.contour(0).tolist() == [[1, 2], [3, 2], [3, 5], [1, 5]]
    assert nuclei.types.tolist() == [4]
    assert nuclei.type_probabilities is None
    assert (stored.mpp, stored.level0_scale, stored.types) == (None, None, None)


def test_without_nuclei_the_files_are_whole(result, tmp_path):
    empty = replace(result, parts=lambda: iter(()))
    assert read_json(empty, tmp_path, "json")["nuc"] == {}
    assert read_json(empty, tmp_path, "geojson")["features"] == []
    assert read_json(empty, tmp_path, "qupath")["features"] == []
    table = pq.read_table(write(empty, tmp_path, "parquet"))
    assert len(table) == 0
    assert table.schema == pq.read_table(write(result, tmp_path, "parquet")).schema


def test_geojson_polygons_run_along_pixel_edges_in_level0_pixels(result, tmp_path):
    feature = read_json(result, tmp_path, "qupath")["features"][0]
    polygon = shapely.geometry.shape(feature["geometry"])
    assert polygon.bounds == (6.0, 4.0, 20.0, 12.0)  # columns 3..9 and rows 2..5, times 2
    assert polygon.area == 4 * 7 * 2.0**2
    assert feature["properties"]["classification"] == {"name": "a", "color": [255, 0, 0]}
    measurements = feature["properties"]["measurements"]
    assert measurements["Area µm^2"] == 4 * 7 * 0.5**2
    assert measurements["Major axis µm"] == pytest.approx(4 * math.sqrt(7**2 / 12) * 0.5)
    assert measurements["Solidity"] == 1
    assert measurements["Probability: a"] == 1.0


def test_geojson_without_resolution_gives_no_microns(result, tmp_path):
    measurements = read_json(replace(result, mpp=None), tmp_path, "qupath")["features"][0]["properties"][
        "measurements"
    ]
    assert not [name for name in measurements if "µm" in name]
    assert measurements["Solidity"] == 1


def check_as_qupath_reads(text):
    """Assert what QuPath's importer asks of a collection and its detections, and what GeoJSON does."""
    assert text.isascii()  # older QuPath reads in the machine's own encoding
    collection = geojson.loads(text)
    assert isinstance(collection, geojson.FeatureCollection)
    assert collection.is_valid, collection.errors()
    for feature in collection["features"]:
        if "id" in feature:
            uuid.UUID(feature["id"])
        (ring,) = feature["geometry"]["coordinates"]
        polygon = shapely.Polygon(ring)
        assert feature["geometry"]["type"] == "Polygon"
        assert ring[0] == ring[-1]
        assert len(ring) >= 5
        assert polygon.is_valid
        assert polygon.exterior.is_ccw
        assert polygon.area > 0
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert isinstance(properties["name"], str)
        if "classification" in properties:
            assert set(properties["classification"]) == {"name", "color"}
            assert properties["classification"]["name"]
            assert all(
                isinstance(level, int) and 0 <= level <= 255
                for level in properties["classification"]["color"]
            )
            assert len(properties["classification"]["color"]) == 3
        values = properties["measurements"].values()
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    names = [int(feature["properties"]["name"]) for feature in collection["features"]]
    assert names == list(range(1, len(names) + 1))


def rough():
    """Label map of 4-connected pieces of noise, many of them a pixel thin."""
    pieces, _ = ndimage.label(np.random.default_rng(2).random((60, 80)) < 0.55)
    return pieces.astype(np.int32)


@pytest.mark.parametrize("name", ["geojson", "qupath"])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.499 / 0.25])
def test_qupath_reads_every_feature(name, scale, tmp_path):
    for types in (None, TYPES):
        result = make_result(
            rough(),
            types=types,
            level0_scale=scale,
            region_size=32,
        )
        data = write(result, tmp_path, name).read_bytes()
        check_as_qupath_reads((gzip.decompress(data) if name == "geojson" else data).decode())


def test_qupath_reads_the_nuclei_of_real_labels(consep_dir, tmp_path):
    labels = loadmat(consep_dir / "Train" / "Labels" / "train_1.mat")["inst_map"].astype(np.int32)
    _, gapless = np.unique(labels, return_inverse=True)
    result = make_result(gapless.reshape(labels.shape).astype(np.int32), region_size=512)
    check_as_qupath_reads(write(result, tmp_path, "qupath").read_text())


def test_compressed_geojson_is_the_plain_one_and_the_same_each_time(result, tmp_path, monkeypatch):
    plain = write(result, tmp_path, "qupath").read_bytes()
    compressed = write(result, tmp_path, "geojson").read_bytes()
    assert gzip.decompress(compressed) == plain
    monkeypatch.setattr("time.time", lambda: 2e9)
    (tmp_path / "elsewhere").mkdir()
    assert write(result, tmp_path / "elsewhere", "geojson").read_bytes() == compressed


AWKWARD = ('100 % "x"', "twice", "twice")


@pytest.mark.parametrize("name", TABLES)
def test_awkward_and_repeated_names_of_types_stay_apart(name, result, tmp_path):
    types = tuple(NucleusType(word, kind.colour) for word, kind in zip(AWKWARD, TYPES, strict=True))
    stored = WRITERS[name].read(write(replace(result, types=types), tmp_path, name))
    assert stored.types == types
    assert stored.nuclei.types.tolist() == [1, 2]


@pytest.mark.parametrize("name", ["geojson", "parquet"])
def test_a_file_of_somebody_else_is_refused(name, tmp_path):
    path = tmp_path / "file"
    path.write_text('{"type":"FeatureCollection","features":[]}')
    if name == "parquet":
        pq.write_table(pa.table({"id": [1]}), path)
    with pytest.raises(ValueError, match="'hovernet'; only .* inference wrote"):
        WRITERS[name].read(path)


@pytest.mark.parametrize("name", ["geojson", "parquet"])
def test_types_without_names_and_probabilities_are_called_by_number(name, result, tmp_path):
    def parts():
        for part in result.parts():
            for row in range(2):  # the first part has no nucleus of type 2
                keep = np.arange(2) == row
                nuclei = replace(part.nuclei, type_probabilities=None).select(keep)
                labels = np.where(part.labels.unpack() == row + 1, 1, 0)
                yield Part(nuclei, PackedLabels.pack(labels, part.labels.box_yxyx[:2]), 40)

    stored = WRITERS[name].read(write(replace(result, types=None, parts=parts), tmp_path, name))
    assert stored.nuclei.types.tolist() == [1, 2]
    assert [kind.name for kind in stored.types] == ["type 0", "type 1", "type 2"]


def test_parquet_has_the_metadata_of_geoparquet(result, tmp_path):
    geo = json.loads(pq.read_metadata(write(result, tmp_path, "parquet")).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert column["crs"] is None
    assert column["bbox"] == [6.0, 4.0, 50.0, 40.0]
    assert column["covering"]["bbox"]["ymax"] == ["bbox", "ymax"]


def test_parquet_columns_are_in_level0_pixels_and_microns(result, tmp_path):
    first, _ = pq.read_table(write(result, tmp_path, "parquet")).to_pylist()
    polygon = shapely.from_wkb(first["geometry"])
    assert first["bbox"] == {"xmin": 6.0, "ymin": 4.0, "xmax": 20.0, "ymax": 12.0}
    assert tuple(first["bbox"].values()) == polygon.bounds
    assert (
        (first["centroid_x"], first["centroid_y"]) == (polygon.centroid.x, polygon.centroid.y) == (13.0, 8.0)
    )
    assert (first["id"], first["type"], first["type_name"], first["type_share"]) == (1, 1, "a", 1.0)
    assert [first[f"probability_{kind.name}"] for kind in TYPES] == [0.0, 1.0, 0.0]
    assert first["area_um2"] == 4 * 7 * 0.5**2
    assert first["major_axis_um"] == pytest.approx(4 * math.sqrt(7**2 / 12) * 0.5)
    assert first["orientation_rad"] == 0.0


def test_parquet_has_null_where_there_is_no_resolution_and_no_type(result, tmp_path):
    first, _ = pq.read_table(write(replace(without_types(result), mpp=None), tmp_path, "parquet")).to_pylist()
    assert [name for name, value in first.items() if value is None] == [
        "type",
        "type_name",
        "type_share",
        "area_um2",
        "perimeter_um",
        "major_axis_um",
        "minor_axis_um",
    ]


def test_parquet_gathers_parts_into_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS", 5)
    result = make_result(ellipses(), region_size=32)
    sizes = [len(part.nuclei) for part in result.parts()]
    assert max(sizes) < 5
    metadata = pq.read_metadata(write(result, tmp_path, "parquet"))
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert sum(groups) == 12
    assert all(5 <= size < 5 + max(sizes) for size in groups[:-1])


def repeat(num_parts, seen=None):
    """A slide of the same 36 x 36 squares over and over; ``seen`` is called before each part is handed over."""
    square = np.pad(np.ones((5, 5), np.int32), (1, 3))
    label_map = np.tile(square, (36, 36))
    label_map[label_map > 0] = np.kron(np.arange(1, 36 * 36 + 1).reshape(36, 36), square)[label_map > 0]
    (part,) = make_parts(label_map, has_types=True, region_size=4096)

    def parts():
        for index in range(num_parts):
            if seen:
                seen(index)
            offset = (len(label_map) * index, 0)
            box = np.add(part.labels.box_yxyx, (*offset, *offset)).tolist()
            nuclei = part.nuclei.shift(offset).renumber(1 + index * len(part.nuclei))
            yield Part(nuclei, replace(part.labels, box_yxyx=tuple(box)), offset[0])

    return replace(make_result(label_map), parts=parts), len(part.nuclei)


@pytest.mark.parametrize("name", TABLES)
def test_nothing_of_earlier_parts_is_held(name, tmp_path, monkeypatch):
    held = {}

    def note(index):
        held[index] = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()

    result, num_nuclei = repeat(12, note)
    monkeypatch.setattr(parquet, "ROWS", 2 * num_nuclei)
    tracemalloc.start()
    try:
        write(result, tmp_path, name)
    finally:
        tracemalloc.stop()
    a_part = 500 * num_nuclei  # bytes; a square's ring alone is 80, its row in Parquet some 300
    assert max(held.values()) - held[1] < a_part
