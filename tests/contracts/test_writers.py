"""Every row of WRITERS: what is written reads back, whatever the result."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.hovernet.postprocess import describe
from models.nuclei import Nuclei, NucleusType
from run_utils.outputs import WRITERS, ImageResult
from run_utils.outputs.rings import fill_contour

SHAPE = (90, 120)
TYPES = (
    NucleusType("background", (0, 0, 0)),
    NucleusType("round", (255, 0, 0)),
    NucleusType("wide, with a 'quote' and ü", (0, 200, 255)),
)


def make_result(has_types=True, num_nuclei=12, level0_scale=1.0, mpp=0.25):
    """Ellipses on a grid, some touching the border, in turns of type 1 and 2."""
    label_map = np.zeros(SHAPE, np.int32)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for index in range(num_nuclei):
        row, column = 30 * (index // 4) + 12, 30 * (index % 4) + 10
        inside = ((y - row) / (6 + index % 5)) ** 2 + ((x - column) / (11 - index % 3)) ** 2 <= 1
        label_map[inside & (label_map == 0)] = index + 1
    votes = np.zeros((3, *SHAPE), np.float32)
    votes[0] = 0.25
    votes[1:] = np.where(label_map % 2 == 0, 0.125, 0.625), np.where(label_map % 2 == 0, 0.625, 0.125)
    nuclei = describe(label_map, votes if has_types else None)
    if num_nuclei == 0:
        nuclei = Nuclei.empty(3 if has_types else None)
    image = np.random.default_rng(0).integers(100, 255, (*SHAPE, 3), np.uint8)
    types = TYPES if has_types else None
    return ImageResult("tile 1", Path("tile 1.png"), image, label_map, nuclei, mpp, level0_scale, types)


RESULTS = {
    "types": make_result(),
    "no types": make_result(has_types=False),
    "no names": replace(make_result(), types=None),
    "no nuclei": make_result(num_nuclei=0),
    "no nuclei, no types": make_result(has_types=False, num_nuclei=0),
    "no resolution": make_result(mpp=None),
    "scaled": make_result(level0_scale=0.499 / 0.25),
    "one pixel": ImageResult(
        "dot",
        Path("dot.png"),
        np.zeros((1, 1, 3), np.uint8),
        np.ones((1, 1), np.int32),
        replace(
            Nuclei.empty(),
            ids=np.ones(1, np.int32),
            boxes_yxyx=np.array([[0, 0, 1, 1]], np.int32),
            centroids=np.zeros((1, 2)),
            contour_points=np.zeros((1, 2), np.int32),
            contour_starts=np.array([0, 1]),
        ),
    ),
}


@pytest.fixture(params=RESULTS)
def result(request):
    return RESULTS[request.param]


@pytest.fixture(params=WRITERS)
def written(request, result, tmp_path):
    """What a format reads back of what it wrote, under a name without its extension."""
    row = WRITERS[request.param]
    path = tmp_path / "file.tmp"
    row.write(result, path)
    assert [file.name for file in tmp_path.iterdir()] == ["file.tmp"]
    return row.read(path)


def test_every_format_gives_something_back(written):
    assert any(part is not None for part in (written.nuclei, written.label_map, written.image))


def test_ids_are_the_same_everywhere(written, result):
    if written.nuclei is not None:
        np.testing.assert_array_equal(written.nuclei.ids, result.nuclei.ids)
    if written.label_map is not None:
        assert written.label_map.dtype == np.int32
        np.testing.assert_array_equal(written.label_map, result.label_map)


def test_positions_are_the_same_everywhere(written, result):
    if written.nuclei is not None:
        np.testing.assert_array_equal(written.nuclei.boxes_yxyx, result.nuclei.boxes_yxyx)
        np.testing.assert_allclose(written.nuclei.centroids, result.nuclei.centroids, atol=1e-6)


def test_contours_hold_the_same_pixels_everywhere(written, result):
    if written.nuclei is None:
        return
    for row, nucleus in enumerate(result.nuclei.ids):
        mask, corner = fill_contour(written.nuclei.contour(row))
        pixels = {tuple(pixel) for pixel in np.argwhere(mask) + corner}
        assert pixels == {tuple(pixel) for pixel in np.argwhere(result.label_map == nucleus)}


def test_types_are_the_same_everywhere(written, result):
    if written.nuclei is None:
        return
    if result.nuclei.types is None or (len(result.nuclei) == 0 and written.nuclei.types is None):
        assert written.nuclei.types is None
    else:
        np.testing.assert_array_equal(written.nuclei.types, result.nuclei.types)
    if written.nuclei.type_probabilities is not None:
        np.testing.assert_allclose(
            written.nuclei.type_probabilities, result.nuclei.type_probabilities, atol=1e-6
        )
    if written.types is not None and result.types is not None:
        assert written.types == result.types


def test_scales_are_the_same_where_a_format_keeps_them(written, result):
    if written.level0_scale is not None:
        assert written.level0_scale == result.level0_scale
        assert written.mpp == result.mpp


def test_a_written_table_can_be_written_again(written, result):
    if written.nuclei is not None:
        assert len(written.nuclei.select(np.arange(len(result.nuclei)))) == len(result.nuclei)
        assert written.nuclei.ids.dtype == np.int32
        assert written.nuclei.contour_points.dtype == np.int32
        assert written.nuclei.contour_starts.dtype == np.int64
