import itertools
import json
from dataclasses import replace
from pathlib import Path

import cv2
import geojson
import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from shapely.geometry import shape as as_shape
from skimage.color import rgb2lab

from models.hovernet.postprocess import describe
from models.nuclei import Nuclei, NucleusType
from run_utils import outputs
from run_utils.outputs import WRITERS, ImageResult, default_colours, overlay, write_outputs
from run_utils.outputs.rings import contour_of_ring, fill_contour, ring_along_edges

SMOOTHED = 30  # grey levels that smoothing takes from a line's colour
TYPES = (NucleusType("none", (1, 2, 3)), NucleusType("a", (255, 0, 0)), NucleusType("b", (0, 0, 255)))


@pytest.fixture
def result():
    """Two rectangles of rows 2-5, columns 3-9 (type 1) and rows 10-19, columns 20-24 (type 2)."""
    label_map = np.zeros((40, 60), np.int32)
    label_map[2:6, 3:10] = 1
    label_map[10:20, 20:25] = 2
    votes = np.stack([label_map == kind for kind in range(3)]).astype(np.float32)
    image = np.full((40, 60, 3), 200, np.uint8)
    return ImageResult(
        "tile", Path("tile.png"), image, label_map, describe(label_map, votes), 0.5, 2.0, TYPES
    )


def read_json(result, tmp_path, name="json"):
    return json.loads(write_outputs(result, tmp_path, [name])[name].read_text())


def test_json_has_the_schema_of_the_reference(result, tmp_path):
    content = read_json(result, tmp_path)
    assert content["mag"] == 20
    assert content["mpp"] == 0.5
    assert set(content["nuc"]) == {"1", "2"}
    nucleus = content["nuc"]["1"]
    assert nucleus["bbox"] == [[2, 3], [6, 10]]
    assert nucleus["centroid"] == [6.0, 3.5]
    assert sorted(nucleus["contour"]) == [[3, 2], [3, 5], [9, 2], [9, 5]]
    assert nucleus["type"] == 1
    assert nucleus["type_prob"] == 1.0
    assert nucleus["type_probabilities"] == [0.0, 1.0, 0.0]


def test_json_says_null_where_there_are_no_types_and_no_resolution(result, tmp_path):
    nuclei = replace(result.nuclei, types=None, type_shares=None, type_probabilities=None)
    content = read_json(replace(result, nuclei=nuclei, types=None, mpp=None), tmp_path)
    assert content["mag"] is None
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
    nuclei = WRITERS["json"].read(path).nuclei
    assert nuclei.ids.tolist() == [7]
    assert nuclei.centroids.tolist() == [[2.0, 3.5]]
    assert nuclei.boxes_yxyx.tolist() == [[1, 2, 4, 6]]
    assert nuclei.contour(0).tolist() == [[1, 2], [3, 2], [3, 5], [1, 5]]
    assert nuclei.types.tolist() == [4]
    assert nuclei.type_probabilities is None


def test_mat_has_the_names_and_shapes_of_the_reference(result, tmp_path):
    content = loadmat(write_outputs(result, tmp_path, ["mat"])["mat"])
    assert content["inst_map"].dtype == np.int32
    np.testing.assert_array_equal(content["inst_map"], result.label_map)
    assert content["inst_uid"].tolist() == [[1], [2]]
    assert content["inst_type"].tolist() == [[1], [2]]
    assert content["inst_centroid"].tolist() == [[6.0, 3.5], [22.0, 14.5]]


def test_mat_has_no_types_where_the_network_has_none(result, tmp_path):
    nuclei = replace(result.nuclei, types=None, type_shares=None, type_probabilities=None)
    path = write_outputs(replace(result, nuclei=nuclei, types=None), tmp_path, ["mat"])["mat"]
    assert "inst_type" not in loadmat(path)


def test_qupath_polygons_run_along_pixel_edges_in_level0_pixels(result, tmp_path):
    feature = read_json(result, tmp_path, "qupath")["features"][0]
    polygon = as_shape(feature["geometry"])
    assert polygon.bounds == (6.0, 4.0, 20.0, 12.0)  # columns 3..9 and rows 2..5, times 2
    assert polygon.area == 4 * 7 * 2.0**2
    assert feature["properties"]["objectType"] == "detection"
    assert feature["properties"]["classification"] == {"name": "a", "color": [255, 0, 0]}
    assert feature["properties"]["measurements"]["Area µm^2"] == 4 * 7 * 0.5**2
    assert feature["properties"]["measurements"]["Probability: a"] == 1.0


def test_qupath_is_valid_geojson(result, tmp_path):
    collection = geojson.loads(write_outputs(result, tmp_path, ["qupath"])["qupath"].read_text())
    assert isinstance(collection, geojson.FeatureCollection)
    assert collection.is_valid, collection.errors()


def rough_masks(num_masks=300):
    """Random nuclei-sized blobs with spikes, holes, bridges a pixel wide and corners that touch."""
    rng = np.random.default_rng(11)
    for index in range(num_masks):
        mask = rng.random(rng.integers(1, 14, 2)) < (0.35, 0.55, 0.75)[index % 3]
        if mask.any():
            yield mask.astype(np.uint8)


def outer_contours(mask):
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0, ::-1] for contour in contours]


def test_rings_of_any_shape_are_valid_and_hold_the_pixels_of_the_largest_piece():
    for mask in rough_masks():
        for contour in outer_contours(mask):
            ring = ring_along_edges(contour)
            polygon = as_shape({"type": "Polygon", "coordinates": [ring.tolist()]})
            filled, _ = fill_contour(contour)
            assert polygon.is_valid
            assert polygon.is_simple
            assert (ring[0] == ring[-1]).all()
            assert len(ring) >= 5
            assert polygon.area == largest_piece_size(filled)


def largest_piece_size(mask):
    """Pixels of the largest 4-connected piece, holes filled, by flooding in plain Python."""
    todo, sizes = {tuple(pixel) for pixel in np.argwhere(mask)}, []
    while todo:
        piece, front = set(), [todo.pop()]
        while front:
            y, x = front.pop()
            piece.add((y, x))
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & todo
            todo -= near
            front += near
        sizes.append(len(piece) + num_enclosed(piece, mask.shape))
    return max(sizes)


def num_enclosed(piece, shape):
    """Pixels outside a piece from which no walk along sides leads out."""
    everywhere = set(itertools.product(range(-1, shape[0] + 1), range(-1, shape[1] + 1)))
    free, front = everywhere - piece, [(-1, -1)]
    free.remove((-1, -1))
    while front:
        y, x = front.pop()
        near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & free
        free -= near
        front += near
    return len(free)


def test_a_ring_and_its_contour_are_inverse():
    for mask in rough_masks(100):
        ring = ring_along_edges(outer_contours(mask)[0])
        again = ring_along_edges(contour_of_ring(ring))
        assert {tuple(point) for point in ring} == {tuple(point) for point in again}


def test_overlay_keeps_the_image_and_puts_the_legend_below(result, tmp_path):
    overlay.write(result, tmp_path / "with.png")
    overlay.write(result, tmp_path / "without.png", legend=False)
    with_legend = overlay.read(tmp_path / "with.png").image
    without = overlay.read(tmp_path / "without.png").image
    assert without.shape == result.image.shape
    np.testing.assert_array_equal(with_legend[:40, :60], without)
    assert with_legend.shape[0] > 40
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (with_legend[40:] == colour).all(-1).any()


def test_overlay_draws_each_outline_in_its_types_colour(result):
    drawn = overlay.draw_nuclei(result)
    np.testing.assert_allclose(drawn[2, 6], [255, 0, 0], atol=SMOOTHED)
    np.testing.assert_allclose(drawn[15, 20], [0, 0, 255], atol=SMOOTHED)
    np.testing.assert_array_equal(drawn[30:], result.image[30:])
    assert (result.image == 200).all()


def test_overlay_marks_centroids_when_asked(result):
    assert overlay.draw_nuclei(result, dots=True)[14, 22].tolist() == [255, 0, 0]


def test_overlay_of_a_network_without_types_uses_one_colour(result):
    nuclei = replace(result.nuclei, types=None, type_shares=None, type_probabilities=None)
    drawn = overlay.draw_nuclei(replace(result, nuclei=nuclei, types=None, mpp=1.0))
    for pixel in (drawn[2, 6], drawn[15, 20]):
        np.testing.assert_allclose(pixel, default_colours(2)[1], atol=SMOOTHED)


def test_lines_are_wider_where_pixels_are_finer(result):
    changed = [
        (overlay.draw_nuclei(replace(result, mpp=mpp)) != result.image).any(-1).sum()
        for mpp in (0.5, 0.25, 0.125)
    ]
    assert changed == sorted(set(changed))


def test_a_name_no_writer_has_is_refused_before_anything_is_written(result, tmp_path):
    with pytest.raises(ValueError, match="unknown tsv; choose from json, mat, overlay, qupath, npy"):
        write_outputs(result, tmp_path / "out", ["json", "tsv"])
    assert not (tmp_path / "out").exists()


def test_each_format_has_its_folder_and_no_temporary_stays(result, tmp_path):
    paths = write_outputs(result, tmp_path, list(WRITERS))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(paths.values())
    assert paths["overlay"] == tmp_path / "overlay" / "tile.png"


def test_options_reach_the_formats_that_take_them(result, tmp_path):
    paths = write_outputs(result, tmp_path, ["json", "overlay"], dots=True, legend=False)
    drawn = overlay.read(paths["overlay"]).image
    np.testing.assert_array_equal(drawn, overlay.draw_nuclei(result, dots=True))


def test_an_option_no_writer_takes_is_refused(result, tmp_path):
    with pytest.raises(ValueError, match="dot.*writers take only dots, legend"):
        write_outputs(result, tmp_path, ["json"], dot=True)


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(result, tmp_path, monkeypatch):
    path = write_outputs(result, tmp_path, ["json"])["json"]
    before = path.read_bytes()

    def fail(result, path):
        path.write_text("half")
        raise OSError("the disk is full")

    monkeypatch.setitem(outputs.WRITERS, "json", WRITERS["json"]._replace(write=fail))
    with pytest.raises(OSError, match="disk is full"):
        write_outputs(result, tmp_path, ["json"])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB
COLOUR_BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
PINK_AND_PURPLE = [(230, 170, 205), (150, 110, 170), (90, 60, 130)]  # eosin, haematoxylin, a dense nucleus


@pytest.mark.parametrize("sight", COLOUR_BLINDNESS)
def test_default_colours_are_told_apart_on_tissue(sight):
    def seen(colours):
        rgb = np.array(colours) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        linear = np.clip(linear @ np.array(COLOUR_BLINDNESS[sight]).T, 0, 1)
        return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))

    types = seen(default_colours(6)[1:])
    tissue = seen(PINK_AND_PURPLE)
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(types, 2)]
    from_tissue = np.linalg.norm(types[:, None] - tissue[None], axis=-1)
    assert min(apart) > 20  # CIE 1976; 2.3 is just noticeable
    assert from_tissue.min() > 20


def test_there_is_a_colour_for_every_type_however_many():
    assert [len(default_colours(count)) for count in (0, 1, 2, 7, 40)] == [0, 1, 2, 7, 40]
    assert len(set(default_colours(10))) == 10


def test_an_overlay_of_real_labels_is_drawn(consep_dir, tmp_path):
    image = np.asarray(Image.open(consep_dir / "Train" / "Images" / "train_1.png").convert("RGB"))
    label_map = loadmat(consep_dir / "Train" / "Labels" / "train_1.mat")["inst_map"].astype(np.int32)
    _, gapless = np.unique(label_map, return_inverse=True)
    label_map = gapless.reshape(label_map.shape).astype(np.int32)
    result = ImageResult("train_1", Path("train_1.png"), image, label_map, describe(label_map), 0.25)
    paths = write_outputs(result, tmp_path, list(WRITERS))
    for feature in json.loads(paths["qupath"].read_text())["features"]:
        assert as_shape(feature["geometry"]).is_valid
    assert WRITERS["overlay"].read(paths["overlay"]).image.shape[1] == 1000


def test_no_nuclei_make_an_empty_collection(result, tmp_path):
    empty = replace(result, nuclei=Nuclei.empty(3), label_map=np.zeros_like(result.label_map))
    assert read_json(empty, tmp_path, "qupath")["features"] == []
    assert read_json(empty, tmp_path)["nuc"] == {}
