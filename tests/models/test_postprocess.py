from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks.plain import plain_label_map, plain_nuclei
from models.hovernet.postprocess import (
    CONTEXT,
    MARKER_KERNEL,
    NORMALISATIONS,
    SOBEL_GAIN,
    decode,
    describe,
    full_maps,
)
from models.hovernet.targets import make_targets

TILE = Path(__file__).parents[1] / "golden" / "tile.npz"


def encode(label_map):
    targets = make_targets(torch.from_numpy(label_map)[None])
    return targets.nuclei[0].numpy().astype(np.float32), targets.hv[0].numpy()


def cells(shape, seed=0, spacing=17, radius=10.0, margin=0):
    """Touching cells: nearest of jittered seeds, cut to discs; none within ``margin`` of the edge."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.mgrid[spacing / 2 : shape[0] : spacing, spacing / 2 : shape[1] : spacing], -1).reshape(
        -1, 2
    )
    seeds = grid + rng.uniform(-4, 4, grid.shape)
    pixels = np.stack(np.mgrid[: shape[0], : shape[1]], -1)
    distance = np.linalg.norm(pixels[:, :, None] - seeds, axis=-1)
    label_map = np.where(distance.min(-1) < radius, distance.argmin(-1) + 1, 0).astype(np.int32)
    if margin:
        edge = np.ones(shape, bool)
        edge[margin:-margin, margin:-margin] = False
        label_map[edge] = 0
    return label_map


def noisy_maps(seed=0, shape=(160, 190), num_types=4):
    """Maps as a network gives them: blurred, with noise, and beyond -1..1 here and there."""
    rng = np.random.default_rng(seed)
    nuclei, hv = encode(cells(shape, seed, radius=9.0))
    noise = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, 2, 2)) * 1.5
    probability = np.clip(ndimage.gaussian_filter(nuclei, 1) + noise[0], 0, 1).astype(np.float32)
    types = rng.uniform(size=(num_types, *shape)) + (rng.uniform(size=(num_types, 1, 1)))
    types = ndimage.gaussian_filter(types, (0, 3, 3))
    return probability, (hv * 1.1 + noise[1:]).astype(np.float32), (types / types.sum(0)).astype(np.float32)


def in_reading_order(label_map):
    """Number the nuclei by their first pixel, so that maps that differ in ids alone are equal."""
    ids, first = np.unique(label_map[label_map > 0], return_index=True)
    new_ids = np.zeros(label_map.max() + 1, np.int32)
    new_ids[ids[np.argsort(first)]] = np.arange(1, len(ids) + 1)
    return new_ids[label_map]


@pytest.mark.parametrize("seed", range(6))
def test_reference_mode_gives_the_references_label_map(seed):
    probability, hv, _ = noisy_maps(seed)
    label_map, _ = decode(probability, hv, normalisation="reference")
    expected = plain_label_map(probability, hv)
    assert expected.max() > 20
    np.testing.assert_array_equal(in_reading_order(label_map), in_reading_order(expected))


@pytest.mark.parametrize("seed", range(3))
def test_pure_noise_is_decoded_as_the_reference_does(seed):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, 150, 150)), (0, 2.5, 2.5))
    probability = (smooth[0] > -0.03).astype(np.float32)
    hv = (smooth[1:] / np.abs(smooth[1:]).max()).astype(np.float32)
    label_map, _ = decode(probability, hv, normalisation="reference")
    np.testing.assert_array_equal(
        in_reading_order(label_map), in_reading_order(plain_label_map(probability, hv))
    )


def test_a_networks_maps_give_the_references_label_map():
    with np.load(TILE) as tile:
        probability, hv = tile["nuclei"].astype(np.float32), tile["hv"].astype(np.float32)
    label_map, nuclei = decode(probability, hv, normalisation="reference")
    assert len(nuclei) > 20
    np.testing.assert_array_equal(
        in_reading_order(label_map), in_reading_order(plain_label_map(probability, hv))
    )


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_table_equals_the_slow_loop_over_nuclei(normalisation):
    probability, hv, types = noisy_maps()
    label_map, nuclei = decode(probability, hv, types, normalisation)
    expected = plain_nuclei(label_map, types.argmax(0))
    assert label_map.dtype == np.int32 and label_map.shape == probability.shape
    assert nuclei.ids.tolist() == list(expected) == list(range(1, label_map.max() + 1))
    assert nuclei.type_probabilities.shape == (len(nuclei), 4)
    for row, facts in enumerate(expected.values()):
        assert tuple(nuclei.boxes_yxyx[row]) == facts["box"]
        np.testing.assert_allclose(nuclei.centroids[row], facts["centroid"][::-1], atol=1e-9)
        np.testing.assert_array_equal(nuclei.contour(row), facts["contour"][:, ::-1])
        assert nuclei.types[row] == facts["type"]
        assert nuclei.type_shares[row] == pytest.approx(facts["share"])
        mean = types[:, label_map == row + 1].mean(axis=1)
        np.testing.assert_allclose(nuclei.type_probabilities[row], mean, rtol=1e-5)


def test_a_crop_of_whole_clusters_gives_the_same_nuclei_as_the_larger_map():
    clusters = [cells((110, 110), seed, radius=9.0, margin=CONTEXT) for seed in range(4)]
    large = np.zeros((300, 420), np.int32)
    places = [(0, 0), (130, 57), (7, 200), (190, 305)]
    for number, ((top, left), cluster) in enumerate(zip(places, clusters, strict=True)):
        large[top : top + 110, left : left + 110] = np.where(cluster > 0, cluster + 1000 * number, 0)
    probability, hv = encode(large)
    rng = np.random.default_rng(0)
    hv += rng.normal(scale=0.1, size=hv.shape).astype(np.float32)
    hv[:, 290, 5] = 40.0  # what another part of the window holds
    whole, _ = decode(probability, hv)
    for top, left in places:
        window = slice(top, top + 110), slice(left, left + 110)
        part, nuclei = decode(probability[window], hv[:, *window])
        assert len(nuclei) > 10
        np.testing.assert_array_equal(in_reading_order(part), in_reading_order(whole[window]))


def test_touching_nuclei_are_separated():
    label_map = np.zeros((60, 80), np.int32)
    label_map[20:40, 20:40], label_map[20:40, 40:60] = 1, 2
    for normalisation in NORMALISATIONS:
        decoded, nuclei = decode(*encode(label_map), normalisation=normalisation)
        assert len(nuclei) == 2
        assert (in_reading_order(decoded) == label_map).mean() > 0.99


def test_a_nucleus_and_the_ring_around_it_are_two():
    y, x = np.mgrid[:80, :80] - 40
    radius = np.hypot(y, x)
    probability = ((radius < 10) | ((radius > 13) & (radius < 30))).astype(np.float32)
    flat = np.zeros((2, 80, 80), np.float32)  # nothing falls: all of every blob is marker
    label_map, nuclei = decode(probability, flat, gradient_range=(-0.28, 0.1))
    assert len(nuclei) == 2
    assert label_map[40, 40] != label_map[40, 60] > 0
    assert (label_map > 0).sum() == probability.sum()


def test_a_nucleus_that_fills_the_window_is_found():
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    for normalisation in NORMALISATIONS:
        maps = np.ones((64, 64), np.float32), np.stack([x, y]).astype(np.float32)
        label_map, nuclei = decode(*maps, normalisation=normalisation, gradient_range=(-0.28, 0.04))
        assert len(nuclei) == 1 and (label_map == 1).all()
        assert nuclei.boxes_yxyx.tolist() == [[0, 0, 64, 64]]
        assert nuclei.centroids.tolist() == [[31.5, 31.5]]


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (64, 64)])
def test_no_nuclei_give_an_empty_table_with_its_columns(normalisation, shape):
    maps = np.zeros(shape), np.zeros((2, *shape)), np.full((5, *shape), 0.2)
    label_map, nuclei = decode(*maps, normalisation)
    assert label_map.shape == shape and label_map.dtype == np.int32 and not label_map.any()
    assert len(nuclei) == 0 and nuclei.type_probabilities.shape == (0, 5)
    assert decode(*maps[:2], None, normalisation)[1].types is None


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_window_of_one_nuclear_pixel_holds_nothing(normalisation):
    label_map, nuclei = decode(np.ones((1, 1)), np.zeros((2, 1, 1)), normalisation=normalisation)
    assert label_map.tolist() == [[0]] and len(nuclei) == 0


def test_blobs_below_the_smallest_size_are_dropped_and_at_it_kept():
    maps = np.zeros((40, 40), np.float32), np.zeros((2, 40, 40), np.float32)
    maps[0][10:15, 10:15] = 1
    y, x = np.mgrid[-1:1:5j, -1:1:5j]
    maps[1][:, 10:15, 10:15] = x, y
    kept = {
        size: len(decode(*maps, min_size=size, gradient_range=(-0.5, 0.0))[1]) for size in (1, 10, 25, 26)
    }
    assert kept[26] == 0
    assert kept[1] == 1


def test_a_single_nuclear_pixel_is_below_the_smallest_size():
    probability = np.zeros((30, 30), np.float32)
    probability[15, 15] = 1
    assert len(decode(probability, np.zeros((2, 30, 30), np.float32))[1]) == 0


def test_a_type_wins_over_background_if_any_pixel_says_so():
    label_map = np.zeros((4, 12), np.int32)
    label_map[:, :4], label_map[:, 4:8], label_map[:, 8:] = 1, 2, 3
    types = np.zeros((3, 4, 12), np.float32)
    types[0] = 1
    types[:, 0, :4] = np.array([0, 0, 1])[:, None]  # 4 of 16 pixels say type 2
    types[:, :3, 4:8] = np.array([0, 1, 0])[:, None, None]  # 12 of 16 say type 1
    nuclei = describe(label_map, types)
    assert nuclei.types.tolist() == [2, 1, 0]
    assert nuclei.type_shares.tolist() == [0.25, 0.75, 1.0]
    np.testing.assert_allclose(nuclei.type_probabilities, [[0.75, 0, 0.25], [0.25, 0.75, 0], [1, 0, 0]])


def test_a_network_of_background_alone_gives_type_zero():
    nuclei = describe(np.ones((4, 4), np.int32), np.ones((1, 4, 4), np.float32))
    assert nuclei.types.tolist() == [0] and nuclei.type_shares.tolist() == [1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (1, 2)])
def test_a_nucleus_too_thin_for_a_polygon_has_its_boxs_corners(shape):
    label_map = np.zeros((12, 12), np.int32)
    label_map[3 : 3 + shape[0], 4 : 4 + shape[1]] = 1
    contour = describe(label_map).contour(0)
    assert len(contour) == 4
    assert cv2.contourArea(contour) == shape[0] * shape[1]


def test_a_nucleus_in_pieces_has_the_contour_of_the_largest():
    label_map = np.zeros((20, 20), np.int32)
    label_map[1:3, 1:4] = label_map[8:16, 9:17] = 1
    contour = describe(label_map).contour(0)
    assert sorted(map(tuple, contour.tolist())) == [(8, 9), (8, 16), (15, 9), (15, 16)]


def test_half_precision_maps_are_decoded():
    probability, hv = encode(cells((80, 80)))
    expected, _ = decode(probability, hv)
    label_map, _ = decode(probability.astype(np.float16), hv.astype(np.float16))
    assert ((label_map > 0) == (expected > 0)).mean() > 0.99


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_small_maps_give_what_the_same_maps_in_full_give(normalisation):
    probability, hv, types = noisy_maps()
    small = np.round(probability * 255).astype(np.uint8), hv.astype(np.float16)
    small += (np.round(types * 255).astype(np.uint8),)
    full = full_maps(*small)
    assert all(map_.dtype == np.float32 for map_ in full)
    (label_map, nuclei), (expected, table) = decode(*small, normalisation), decode(*full, normalisation)
    assert len(nuclei) > 50
    np.testing.assert_array_equal(label_map, expected)
    for field in fields(nuclei):
        np.testing.assert_array_equal(getattr(nuclei, field.name), getattr(table, field.name))


def test_small_maps_in_full_are_the_numbers_they_stand_for_and_full_ones_stay():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    halves = np.array([0.5, -1, 1 / 3], np.float16)
    probability, hv, types = full_maps(levels[0], halves, levels[:, ::-1, ::2])
    np.testing.assert_allclose(probability.ravel(), [level / 255 for level in range(256)], rtol=1e-7)
    np.testing.assert_array_equal(types[0], probability[::-1, ::2])
    assert hv.dtype == np.float32 and hv.tolist() == halves.tolist()
    assert full_maps(probability, hv)[0] is probability and full_maps(probability, hv)[2] is None


def test_a_level_of_127_is_not_nuclear_and_one_of_128_is():
    flat = np.zeros((2, 20, 20), np.float16)
    for level, num_nuclei in ((127, 0), (128, 1)):
        probability = np.full((20, 20), level, np.uint8)
        assert len(decode(probability, flat, gradient_range=(-0.28, 0.1))[1]) == num_nuclei


def test_whole_numbers_but_small_ones_are_probabilities_themselves():
    probability, hv = encode(cells((80, 80)))
    expected, _ = decode(probability, hv)
    np.testing.assert_array_equal(decode(probability.astype(np.int64), hv)[0], expected)


def test_inputs_are_left_as_they_are():
    maps = noisy_maps()
    copies = [map_.copy() for map_ in maps]
    for normalisation in NORMALISATIONS:
        decode(*maps, normalisation)
    for map_, copy in zip(maps, copies, strict=True):
        np.testing.assert_array_equal(map_, copy)


def test_a_gradient_range_that_falls_is_refused():
    with pytest.raises(ValueError, match="must rise"):
        decode(np.zeros((4, 4)), np.zeros((2, 4, 4)), gradient_range=(0.1, -0.2))


def test_sobel_of_a_ramp_is_its_slope_and_the_kernel_is_opencvs_ellipse():
    ramp = np.tile(np.arange(60, dtype=np.float32) * 0.03, (60, 1))
    gradient = cv2.Sobel(ramp, cv2.CV_32F, 1, 0, ksize=21, scale=1 / SOBEL_GAIN)
    np.testing.assert_allclose(gradient[:, 15:45], 0.03, rtol=1e-5)
    np.testing.assert_array_equal(MARKER_KERNEL, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))


def with_value(shape, value):
    array = np.zeros(shape, np.float32)
    array.flat[3] = value
    return array


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ((np.zeros((1, 4, 4)), np.zeros((2, 4, 4))), r"nuclei_probability is \(1, 4, 4\)"),
        ((np.zeros((0, 4)), np.zeros((2, 0, 4))), "nuclei_probability is"),
        ((np.zeros((4, 4)), np.zeros((4, 4, 2))), r"hv is \(4, 4, 2\)"),
        ((np.zeros((4, 4)), np.zeros((2, 4, 4)), np.zeros((4, 4))), "type_probability is"),
        ((with_value((4, 4), np.nan), np.zeros((2, 4, 4))), "nuclei_probability holds 1 NaN"),
        ((np.zeros((4, 4)), with_value((2, 4, 4), np.inf)), "hv holds 1 NaN"),
        ((np.zeros((4, 4)), np.zeros((2, 4, 4)), with_value((3, 4, 4), np.nan)), "type_probability holds 1"),
        (
            (np.zeros((4, 4)), np.zeros((2, 4, 4)), None, "minmax"),
            "normalisation='minmax'.*window_free, reference",
        ),
    ],
)
def test_unfit_maps_are_refused(maps, message):
    with pytest.raises(ValueError, match=message):
        decode(*maps)
