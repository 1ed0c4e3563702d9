"""Every row of WRITERS: what is written reads back, whatever the result and however many parts it comes in."""

from dataclasses import replace

import numpy as np
import pytest

from models.nuclei import Nuclei
from run_utils.outputs import WRITERS, PackedLabels, Part, SlideResult
from run_utils.outputs.rings import fill_contour
from tests.results import ellipses, make_result


def one_pixel() -> SlideResult:
    nucleus = replace(
        Nuclei.empty(),
        ids=np.ones(1, np.int32),
        boxes_yxyx=np.array([[0, 0, 1, 1]], np.int32),
        centroids=np.zeros((1, 2)),
        contour_points=np.zeros((1, 2), np.int32),
        contour_starts=np.array([0, 1]),
    )
    part = Part(nucleus, PackedLabels.pack(np.ones((1, 1), np.int32), (0, 0)), 1)
    return replace(make_result(np.zeros((1, 1), np.int32), types=None), parts=lambda: iter([part]))


def drawn_large() -> np.ndarray:
    """More than one 512 px tile each way, most of them empty."""
    label_map = np.zeros((700, 1100), np.int32)
    label_map[:90, :120] = ellipses()
    label_map[500:590, 460:580] = np.where(ellipses() > 0, ellipses() + 12, 0)
    label_map[610:, 980:] = np.where(ellipses() > 0, ellipses() + 24, 0)
    return label_map


RESULTS = {
    "types": make_result(ellipses()),
    "many parts": make_result(ellipses(), region_size=32),
    "several tiles": make_result(drawn_large(), region_size=256),
    "no types": make_result(ellipses(), types=None),
    "no names": replace(make_result(ellipses()), types=None),
    "no nuclei": make_result(ellipses(num_nuclei=0)),
    "no nuclei, no types": make_result(ellipses(num_nuclei=0), types=None),
    "no parts": replace(make_result(ellipses(num_nuclei=0)), parts=lambda: iter(())),
    "no resolution": make_result(ellipses(), mpp=None),
    "no thumbnail": replace(make_result(ellipses()), thumbnail=None, tissue=None),
    "scaled": make_result(ellipses(), level0_scale=0.499 / 0.25),
    "one pixel": one_pixel(),
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
        np.testing.assert_array_equal(written.nuclei.ids, result.whole_nuclei().ids)
    if written.label_map is not None:
        assert written.label_map.dtype == np.int32
        np.testing.assert_array_equal(written.label_map, result.whole_label_map())


def test_positions_are_the_same_everywhere(written, result):
    if written.nuclei is not None:
        nuclei = result.whole_nuclei()
        np.testing.assert_array_equal(written.nuclei.boxes_yxyx, nuclei.boxes_yxyx)
        np.testing.assert_allclose(written.nuclei.centroids, nuclei.centroids, atol=1e-6)


def test_contours_hold_the_same_pixels_everywhere(written, result):
    if written.nuclei is None:
        return
    label_map = result.whole_label_map()
    for row, nucleus in enumerate(result.whole_nuclei().ids):
        mask, corner = fill_contour(written.nuclei.contour(row))
        pixels = {tuple(pixel) for pixel in np.argwhere(mask) + corner}
        assert pixels == {tuple(pixel) for pixel in np.argwhere(label_map == nucleus)}


def test_types_are_the_same_everywhere(written, result):
    if written.nuclei is None:
        return
    nuclei = result.whole_nuclei()
    if nuclei.types is None or (len(nuclei) == 0 and written.nuclei.types is None):
        assert written.nuclei.types is None
    else:
        np.testing.assert_array_equal(written.nuclei.types, nuclei.types)
    if written.nuclei.type_probabilities is not None:
        np.testing.assert_allclose(written.nuclei.type_probabilities, nuclei.type_probabilities, atol=1e-6)
    if written.types is not None and result.types is not None:
        assert written.types == result.types


def test_scales_are_the_same_where_a_format_keeps_them(written, result):
    if written.level0_scale is not None:
        assert written.level0_scale == pytest.approx(result.level0_scale)
        assert written.mpp == (None if result.mpp is None else pytest.approx(result.mpp))


def test_a_written_table_can_be_written_again(written, result):
    if written.nuclei is not None:
        nuclei = result.whole_nuclei()
        assert len(written.nuclei.select(np.arange(len(nuclei)))) == len(nuclei)
        assert written.nuclei.ids.dtype == np.int32
        assert written.nuclei.contour_points.dtype == np.int32
        assert written.nuclei.contour_starts.dtype == np.int64
