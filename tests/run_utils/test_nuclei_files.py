import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dataloader.annotations import open_annotations
from run_utils.image_nuclei import label_maps_of, types_of
from run_utils.label_files import read_label_file
from run_utils.nuclei_files import find_nuclei_files, read_nuclei, read_tissues
from run_utils.outputs import WRITERS, output_path, write_output
from tests.results import TYPES, ellipses, make_result

LABELS = ellipses()
OUTLINES = ("json", "geojson", "qupath", "parquet", "store")
FORMATS = ("mat", "npy", "label", *OUTLINES)
NAMES = tuple(kind.name for kind in TYPES)


def truth(tmp_path):
    savemat(tmp_path / "truth.mat", {"inst_map": LABELS})
    return read_label_file(tmp_path / "truth.mat")


@pytest.mark.parametrize("name", FORMATS)
def test_every_output_of_ours_gives_back_the_label_map(tmp_path, name):
    result = make_result(LABELS)
    write_output(result, tmp_path / "run", name)
    (found,) = find_nuclei_files(tmp_path / "run").items()
    assert found == ("tile 1", output_path(tmp_path / "run", "tile 1", name))
    read = read_nuclei(found[1])
    true, predicted = label_maps_of(truth(tmp_path), read)
    assert np.array_equal(predicted, result.whole_label_map())
    if name in ("npy", "label"):
        assert read.types is None
        return
    nuclei = result.whole_nuclei()
    ids = np.unique(predicted[predicted > 0])
    assert types_of(read, read.types, ids).tolist() == nuclei.types.tolist()
    assert read.centroids == pytest.approx(nuclei.centroids, abs=1e-3)


@pytest.mark.parametrize("name", ["json", "store", "geojson", "parquet"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_outlines_are_in_working_pixels_whatever_their_slide_has(tmp_path, name, scale):
    result = make_result(LABELS, level0_scale=scale)
    read = read_nuclei(write_output(result, tmp_path, name))
    assert np.array_equal(label_maps_of(truth(tmp_path), read)[1], result.whole_label_map())


@pytest.mark.parametrize("name", OUTLINES)
def test_an_image_without_nuclei_is_read_from_every_format(tmp_path, name):
    read = read_nuclei(write_output(make_result(np.zeros((90, 120), np.int32)), tmp_path, name))
    assert not label_maps_of(truth(tmp_path), read)[1].any()


def test_the_json_of_the_reference_is_read(tmp_path):
    square = {"bbox": [[2, 3], [5, 6]], "centroid": [4.0, 3.0], "contour": [[3, 2], [3, 4], [5, 4], [5, 2]]}
    content = {"mag": 40, "nuc": {"7": {**square, "type": 2, "type_prob": 0.9}}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    read = read_nuclei(tmp_path / "a.json")
    drawn = label_maps_of(truth(tmp_path), read)[1]
    assert np.array_equal(np.argwhere(drawn == 7), np.argwhere(np.pad(np.ones((3, 3)), ((2, 0), (3, 0)))))
    assert (read.ids.tolist(), read.types.tolist()) == ([7], [2])
    assert read.centroids.tolist() == [[3.0, 4.0]]


def test_outlines_on_both_sides_share_the_size_that_they_need(tmp_path):
    for name in ("json", "parquet"):
        write_output(make_result(LABELS), tmp_path, name)
    maps = label_maps_of(
        *(read_nuclei(output_path(tmp_path, "tile 1", name)) for name in ("json", "parquet"))
    )
    height, width = maps[0].shape
    assert np.array_equal(maps[0], LABELS[:height, :width])
    assert np.array_equal(*maps)


def test_outlines_beyond_the_image_of_the_other_side_are_an_error(tmp_path):
    read = read_nuclei(write_output(make_result(LABELS), tmp_path, "json"))
    savemat(tmp_path / "small.mat", {"inst_map": LABELS[:40]})
    with pytest.raises(
        ValueError, match=r"tile 1.json: outlines reach .* beyond the other side's image of \(40"
    ):
        label_maps_of(read_label_file(tmp_path / "small.mat"), read)


def feature(kind, coordinates, name=None):
    properties = {} if name is None else {"classification": {"name": name, "color": [0, 0, 0]}}
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def square_ring(left, top, side):
    right, bottom = left + side, top + side
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def test_polygons_of_qupath_are_nuclei_with_the_classes_that_are_named(tmp_path):
    """Two touching squares, one of them with a hole, and a nucleus of two pieces."""
    features = [
        feature("Polygon", [square_ring(0, 0, 4), square_ring(1, 1, 2)], "Round"),
        feature("Polygon", [square_ring(4, 0, 4)], "long"),
        feature("MultiPolygon", [[square_ring(0, 6, 2)], [square_ring(4, 6, 2)]]),
    ]
    path = tmp_path / "drawn.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    read = read_nuclei(path, ("background", "round", "long"))
    drawn = label_maps_of(truth(tmp_path), read)[1]
    assert np.bincount(drawn.ravel())[1:].tolist() == [16 - 4, 16, 4 + 4]
    assert drawn[0, 3:5].tolist() == [1, 2]
    assert read.types.tolist() == [1, 2, -1]
    assert read.centroids[:2].tolist() == [[1.5, 1.5], [1.5, 5.5]]
    assert read_nuclei(path).types is None
    with pytest.raises(ValueError, match=r"drawn.geojson: class 'Round' is none of"):
        read_nuclei(path, ("background", "other"))


def test_points_of_qupath_have_types_and_no_pixels(tmp_path):
    features = [
        feature("Point", [10.5, 20.5], "long"),
        feature("MultiPoint", [[1.5, 2.5], [3.5, 4.5]], "round"),
    ]
    (tmp_path / "a.geojson").write_text(json.dumps(features))
    (tmp_path / "b.tsv").write_text("x\ty\tclass\tname\n10.5\t20.5\tlong\tn\n1.5\t2.5\tround\tn\n")
    names = ("background", "round", "long")
    read = read_nuclei(tmp_path / "a.geojson", names)
    assert (read.types.tolist(), read.has_pixels) == ([2, 1, 1], False)
    assert read.centroids.tolist() == [[20, 10], [2, 1], [4, 3]]
    table = read_nuclei(tmp_path / "b.tsv", names)
    assert (table.types.tolist(), table.centroids.tolist()) == ([2, 1], [[20, 10], [2, 1]])
    with pytest.raises(ValueError, match="points without outlines"):
        label_maps_of(truth(tmp_path), table)


def test_outlines_of_two_people_are_compared_whole(tmp_path):
    """Squares of 10 and of 14 px in one corner: their centroids alone would have both cut to the same 7 px."""
    for name, side in (("true", 10), ("predicted", 14)):
        content = [feature("Polygon", [square_ring(0, 0, side)])]
        (tmp_path / f"{name}.geojson").write_text(json.dumps(content))
    maps = label_maps_of(*(read_nuclei(tmp_path / f"{name}.geojson") for name in ("true", "predicted")))
    assert [(label_map > 0).sum() for label_map in maps] == [10 * 10, 14 * 14]


def test_an_outline_across_the_border_of_a_known_image_is_cut_off(tmp_path):
    content = [feature("Polygon", [square_ring(LABELS.shape[1] - 6, 0, 10)])]
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    drawn = label_maps_of(truth(tmp_path), read_nuclei(tmp_path / "a.geojson"))[1]
    assert (drawn.shape, drawn.sum()) == (LABELS.shape, 6 * 10)


def test_the_nucleus_of_a_cell_is_compared_and_not_its_border(tmp_path):
    cell = feature("Polygon", [square_ring(0, 0, 20)])
    cell["nucleusGeometry"] = {"type": "Polygon", "coordinates": [square_ring(5, 5, 4)]}
    (tmp_path / "a.geojson").write_text(json.dumps([cell]))
    read = read_nuclei(tmp_path / "a.geojson")
    assert np.argwhere(label_maps_of(truth(tmp_path), read)[1])[[0, -1]].tolist() == [[5, 5], [8, 8]]
    assert read.centroids.tolist() == [[6.5, 6.5]]


@pytest.mark.parametrize("name", ["a.geojson", "a.json"])
@pytest.mark.parametrize(
    ("classification", "type_name"), [("round", "round"), ({"names": ["Immune", "CD3"]}, "Immune: CD3")]
)
def test_classes_and_endings_are_those_of_the_data_set_adapter(tmp_path, name, classification, type_name):
    item = feature("Polygon", [square_ring(2, 3, 4)])
    item["properties"] = {"classification": classification}
    for folder in ("images", "geojson"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "geojson" / name).write_text(json.dumps([item]))
    names = ("background", "other", type_name)
    adapted = open_annotations("geojson", tmp_path, mpp=0.25, class_names=names).read("All", "a")
    read = read_nuclei(tmp_path / "geojson" / name, names)
    assert read.types.tolist() == [2] and np.array_equal(adapted.type_map, 2 * read.draw((20, 30)))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", '{"annotations": []}', "it has no 'nuc'"),
        (
            "a.json",
            '{"nuc": {"1": {"bbox": [[0, 0], [1, 1]], "centroid": [0, 0], "contour": [[0, 0]], "type": 3000}}}',
            "a.json holds type 3000; types are 0",
        ),
        ("a.geojson", "[", "cannot be read as JSON"),
        ("a.geojson", '{"type": "Topology"}', "or list of features"),
        ("a.geojson", '[{"geometry": null}]', "feature 1 has no geometry"),
        ("a.geojson", json.dumps([feature("LineString", [[0, 0], [1, 1]])]), "holds LineString"),
        ("a.geojson", json.dumps([feature("Polygon", [["x", "y"]])]), "are no rings"),
        ("a.geojson", json.dumps([feature("Polygon", [[[0, 0], [1]]])]), "are no rings"),
        ("a.geojson", json.dumps([{**feature("Point", [0, 0]), "properties": [1]}]), "\\[1\\] is no name"),
        ("a.mat", "MATLAB 5.0 MAT-file" + 50 * "x", "cannot be read"),
        ("a.parquet", "PAR1", "cannot be read"),
        ("a.db", "text", "is not a store"),
        ("a.tsv", "x\tclass\n1\tround\n", "'y'; numbers in the columns"),
        ("a.tsv", "x\ty\tclass\none\t2\tround\n", "numbers in the columns"),
        ("a.doc", "", "is no label file"),
    ],
)
def test_bad_files_are_refused_in_one_line_that_names_them(tmp_path, name, content, complaint):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_nuclei(tmp_path / name, ("background", "round"))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_are_found_by_name_and_mat_goes_first(tmp_path):
    for name in (
        "b.png",
        "b.mat",
        "a.ome.tif",
        "c.geojson.gz",
        "notes.txt",
        ".hidden.mat",
        "run.json",
        "stats.json",
    ):
        (tmp_path / name).touch()
    found = find_nuclei_files(tmp_path)
    assert {name: path.name for name, path in found.items()} == {
        "a": "a.ome.tif",
        "b": "b.mat",
        "c": "c.geojson.gz",
    }
    assert list(found) == ["a", "b", "c"]


def test_a_folder_that_inference_writes_stands_for_its_parent(tmp_path):
    (tmp_path / "mat").mkdir()
    (tmp_path / "json").mkdir()
    (tmp_path / "run.json").touch()
    with pytest.raises(FileNotFoundError, match="holds no label file"):
        find_nuclei_files(tmp_path)
    (tmp_path / "json" / "a.json").touch()
    assert find_nuclei_files(tmp_path) == {"a": tmp_path / "json" / "a.json"}
    (tmp_path / "mat" / "a.mat").touch()
    assert find_nuclei_files(tmp_path) == {"a": tmp_path / "mat" / "a.mat"}
    with pytest.raises(FileNotFoundError, match="absent"):
        find_nuclei_files(tmp_path / "absent")


def test_every_writer_of_nuclei_has_a_reader():
    pictures = {"overlay", "picture", "thumb", "mask"}
    assert set(WRITERS) - pictures == set(FORMATS)


def test_tissues_are_read_with_and_without_a_head(tmp_path):
    (tmp_path / "a.csv").write_text("name,tissue\n1,Breast\n2, Colon \n")
    assert read_tissues(tmp_path / "a.csv") == {"1": "Breast", "2": "Colon"}
    (tmp_path / "b.csv").write_text("1,Breast\n2\n")
    with pytest.raises(ValueError, match="line 2 is '2'"):
        read_tissues(tmp_path / "b.csv")
    with pytest.raises(FileNotFoundError, match="absent"):
        read_tissues(tmp_path / "absent.csv")
