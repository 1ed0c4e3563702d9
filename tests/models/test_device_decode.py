import heapq
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.segmentation import watershed

from benchmarks.decode import touching_nuclei
from metrics.overlap import Overlap
from metrics.segmentation import panoptic_quality
from models.hovernet import device_kernels
from models.hovernet.device_decode import decode_on_device
from models.hovernet.device_kernels import SIDE, SOURCE, flood, flood_by_kernels
from models.hovernet.postprocess import NORMALISATIONS, decode
from tests.golden.make_tile import TILE
from tests.models.host_kernels import compile_for_host
from tests.nvrtc import compile_cuda

KERNELS = ["settle", "follow"]
CORNER = 12  # px of a landscape that no marker reaches


@pytest.fixture(scope="module")
def launch_on_host(tmp_path_factory):
    return compile_for_host(SOURCE, KERNELS, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(params=["numpy", "kernels"])
def engine(request, monkeypatch):
    """NumPy's flood, or in its place the CUDA text on this CPU."""
    if request.param == "kernels":
        launch = request.getfixturevalue("launch_on_host")
        monkeypatch.setattr(
            device_kernels, "_flood_by_numpy", lambda *maps: flood_by_kernels(np, launch, *maps)
        )


def landscape(seed, levels=None, shape=(2 * SIDE + 7, 3 * SIDE + 14)):
    """Smooth heights in 0..1, of so many levels; markers in valleys, peaks closed, and a corner cut off."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    heights = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    markers, _ = ndimage.label(heights < 0.3)
    is_open = heights < 0.8
    is_open[CORNER, : CORNER + 1] = is_open[: CORNER + 1, CORNER] = False
    markers[:CORNER, :CORNER] = 0
    return heights if levels is None else np.round(heights * levels) / np.float32(levels), markers, is_open


def slow_flood(heights, markers, is_open):
    """Label pixels in the order of (highest pixel on the way, steps since), each from its earliest neighbour."""
    labels = np.zeros_like(markers)
    queue = [((heights[place], 0), place, (), place) for place in zip(*np.nonzero(markers), strict=True)]
    heapq.heapify(queue)
    while queue:
        (height, steps), place, _, origin = heapq.heappop(queue)
        if labels[place]:
            continue
        labels[place] = markers[place] or labels[origin]
        for y, x in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            near = place[0] + y, place[1] + x
            is_inside = 0 <= near[0] < heights.shape[0] and 0 <= near[1] < heights.shape[1]
            if is_inside and is_open[near] and not labels[near] and not markers[near]:
                risen = (heights[near], 0) if heights[near] > height else (height, steps + 1)
                heapq.heappush(queue, (risen, near, (height, steps), place))
    return labels


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("levels", [None, 5, 1])
def test_pixels_go_to_the_marker_with_the_lowest_and_then_shortest_way(levels):
    heights, markers, is_open = landscape(0, levels)
    labels = flood(np, heights, markers, is_open)
    np.testing.assert_array_equal(labels, slow_flood(heights, markers * is_open, is_open))
    assert len(np.unique(labels)) > 5
    is_left = is_open & (labels == 0)
    assert is_left[:CORNER, :CORNER].any() and not labels[:CORNER, :CORNER].any()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("is_turned", [False, True])
def test_a_label_finds_its_way_through_a_winding_corridor(is_mirrored, is_turned):
    is_open = np.ones((3 * SIDE, 3 * SIDE), bool)
    is_open[5::6, :-2] = is_open[2::6, 2:] = False  # walls with a gap at alternating ends
    markers = np.zeros(is_open.shape, np.int32)
    markers[0, 0] = 7
    if is_mirrored:
        is_open, markers = is_open[::-1, ::-1], markers[::-1, ::-1]
    if is_turned:
        is_open, markers = is_open.T, markers.T
    labels = flood(np, np.full(is_open.shape, 0.5, np.float32), markers, is_open)
    np.testing.assert_array_equal(labels, 7 * is_open)


def test_heights_that_differ_are_flooded_as_scikit_image_does():
    heights, markers, is_open = landscape(1)
    np.testing.assert_array_equal(
        flood(np, heights, markers, is_open), watershed(heights.astype(np.float64), markers, mask=is_open)
    )


def test_the_cuda_text_compiles():
    code = compile_cuda(SOURCE)
    assert all(name in code for name in KERNELS)


def test_a_mistake_in_the_cuda_text_does_not_compile():
    with pytest.raises(AssertionError, match="error"):
        compile_cuda(SOURCE.replace("__global__", "__nowhere__"))


def shipped_maps():
    """What the shipped model gives for a tile of the sample slide, (240, 240)."""
    with np.load(TILE) as stored:
        return tuple(stored[name].astype(np.float32) for name in ("nuclei", "hv", "types"))


def noise():
    """Maps of blobs of any form, with holes, whose HV maps mean nothing; there are five types."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(8, 150, 190)), (0, 2.5, 2.5)) * 30
    types = np.exp(smooth[3:]) / np.exp(smooth[3:]).sum(axis=0)
    maps = smooth[0] > -0.5, smooth[1:3] / np.abs(smooth[1:3]).max(), types
    return tuple(map_.astype(np.float32) for map_ in maps)


def reduced(maps):
    """The maps as small ones, and the full ones that these stand for."""
    small = tuple(
        map_.astype(np.float16) if index == 1 else np.round(map_ * 255).astype(np.uint8)
        for index, map_ in enumerate(maps)
    )
    full = tuple(
        map_.astype(np.float32) / np.float32(1 if index == 1 else 255) for index, map_ in enumerate(small)
    )
    return small, full


def assert_same(found, expected):
    """Nearly the same pixels, since CuPy's and SciPy's sums round otherwise than OpenCV's; the same order and facts."""
    (label_map, nuclei), (expected_map, expected_nuclei) = found, expected
    assert label_map.dtype == np.int32 and isinstance(label_map, np.ndarray)
    assert len(nuclei) == len(expected_nuclei) > 10
    assert panoptic_quality(Overlap.of(expected_map, label_map)).pq >= 0.999
    assert (label_map == expected_map).mean() >= 0.999  # the ids too
    is_same = [np.array_equal(label_map == id_, expected_map == id_) for id_ in nuclei.ids]
    found, wanted = nuclei.select(np.array(is_same)), expected_nuclei.select(np.array(is_same))
    for column in ("ids", "boxes_yxyx", "contour_points", "contour_starts", "types"):
        np.testing.assert_array_equal(getattr(found, column), getattr(wanted, column))
        assert getattr(found, column).dtype == getattr(wanted, column).dtype
    for column in ("centroids", "type_shares", "type_probabilities"):
        np.testing.assert_allclose(getattr(found, column), getattr(wanted, column), rtol=1e-5)
        assert getattr(found, column).dtype == getattr(wanted, column).dtype


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("make", [shipped_maps, noise, lambda: touching_nuclei(256, 8)])
def test_nuclei_are_those_of_decode(make, normalisation):
    maps = make()
    copies = [map_.copy() for map_ in maps]
    assert_same(decode_on_device(*maps, normalisation), decode(*maps, normalisation))
    for map_, copy in zip(maps, copies, strict=True):
        np.testing.assert_array_equal(map_, copy)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_small_maps_and_tensors_give_the_nuclei_of_the_full_maps(normalisation):
    small, full = reduced(shipped_maps())
    tensors = [torch.from_numpy(map_) for map_ in small]
    assert_same(decode_on_device(*small, normalisation), decode(*full, normalisation))
    assert_same(decode_on_device(*tensors, normalisation), decode(*full, normalisation))


def test_settings_are_those_of_decode():
    maps = shipped_maps()
    settings = {
        "nuclei_threshold": 0.3, "marker_threshold": 0.3, "min_size": 60, "gradient_range": (-0.2, 0.1)
    }  # fmt: skip
    found, expected = decode_on_device(*maps, **settings), decode(*maps, **settings)
    assert_same(found, expected)
    assert len(found[1]) != len(decode(*maps)[1])


def test_a_nucleus_and_the_ring_around_it_are_two_or_in_the_references_way_one():
    y, x = np.mgrid[:80, :80] - 40
    radius = np.hypot(y, x)
    probability = ((radius < 10) | ((radius > 13) & (radius < 30))).astype(np.float32)
    maps = probability, np.zeros((2, 80, 80), np.float32)  # nothing falls: all of every blob is marker
    for normalisation, num_nuclei in (("window_free", 2), ("reference", 1)):
        for function in (decode, decode_on_device):
            settings = {"gradient_range": (-0.28, 0.1), "marker_threshold": 2.0}
            label_map, nuclei = function(*maps, normalisation=normalisation, **settings)
            assert len(nuclei) == num_nuclei
            assert nuclei.types is None
            np.testing.assert_array_equal(label_map > 0, probability > 0)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("probability", [np.zeros((3, 50)), np.zeros((1, 1)), np.ones((1, 1))])
def test_no_nuclei_give_an_empty_table_with_its_columns(probability, normalisation):
    shape = probability.shape
    label_map, nuclei = decode_on_device(
        probability, np.zeros((2, *shape)), np.ones((5, *shape)), normalisation
    )
    assert label_map.shape == shape and label_map.dtype == np.int32 and not label_map.any()
    assert len(nuclei) == 0 and nuclei.type_probabilities.shape == (0, 5)
    assert decode_on_device(probability, np.zeros((2, *shape)))[1].types is None


def with_nan(shape):
    maps = np.zeros(shape, np.float32)
    maps.flat[3] = np.nan
    return maps


@pytest.mark.parametrize(
    ("maps", "settings"),
    [
        ((np.zeros((1, 4, 4)), np.zeros((2, 4, 4))), {}),
        ((np.zeros((0, 4)), np.zeros((2, 0, 4))), {}),
        ((np.zeros((4, 4)), np.zeros((4, 4, 2))), {}),
        ((np.zeros((4, 4)), np.zeros((2, 4, 4)), np.zeros((4, 4))), {}),
        ((with_nan((4, 4)), np.zeros((2, 4, 4))), {}),
        ((np.zeros((4, 4)), np.zeros((2, 4, 4)), with_nan((3, 4, 4))), {}),
        ((np.zeros((4, 4)), np.zeros((2, 4, 4))), {"normalisation": "minmax"}),
        ((np.zeros((4, 4)), np.zeros((2, 4, 4))), {"gradient_range": (0.1, -0.2)}),
    ],
)
def test_what_decode_refuses_is_refused_in_the_same_words(maps, settings):
    with pytest.raises(ValueError) as expected:
        decode(*maps, **settings)
    with pytest.raises(ValueError) as found:
        decode_on_device(*maps, **settings)
    assert str(found.value) == str(expected.value)


def test_maps_on_a_gpu_without_cupy_are_refused_with_the_remedy(monkeypatch):
    class OnDevice:
        device = nullcontext()

    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="gpu13"):
        decode_on_device(OnDevice(), None)


@pytest.mark.gpu
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("make", [shipped_maps, noise, lambda: touching_nuclei(2048, 64)])
def test_a_gpu_gives_the_nuclei_of_decode(make, normalisation):
    cupy = pytest.importorskip("cupy")
    small, full = reduced(make())
    expected = decode(*full, normalisation)
    for maps in (small, full):
        assert_same(decode_on_device(*map(cupy.asarray, maps), normalisation), expected)
        tensors = [torch.from_numpy(map_).cuda() for map_ in maps]
        assert_same(decode_on_device(*tensors, normalisation), expected)


@pytest.mark.gpu
def test_maps_that_a_stream_of_torch_is_still_writing_are_waited_for():
    pytest.importorskip("cupy")
    maps = [torch.from_numpy(map_).cuda() for map_ in shipped_maps()]
    expected = decode_on_device(*maps)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        late = [torch.zeros_like(map_) for map_ in maps]
        torch.cuda._sleep(200_000_000)  # cycles, about 0.1 s
        for copy, map_ in zip(late, maps, strict=True):
            copy.copy_(map_)
        found = decode_on_device(*late)
    assert_same(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 1), (3, 50)])
def test_a_gpu_finds_nothing_in_empty_maps(shape):
    maps = (torch.zeros(shape).cuda(), torch.zeros(2, *shape).cuda(), torch.ones(5, *shape).cuda())
    for probability in (maps[0], maps[0] + 1):
        label_map, nuclei = decode_on_device(probability, *maps[1:], min_size=1000)
        assert label_map.shape == shape and not label_map.any() and len(nuclei) == 0
