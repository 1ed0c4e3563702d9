import heapq

import numpy as np
import pytest
from scipy import ndimage

from models.hovernet.flood import flood

STEPS = ((-1, 0), (0, -1), (0, 1), (1, 0))


def plain_flood(label_map, is_open, depth):
    """The lowest pixel of the shore first, and of equals the first to come: one pixel after another."""
    labels = label_map.copy()
    queue = [(depth[place], -1, place) for place in zip(*np.nonzero(labels), strict=True)]
    heapq.heapify(queue)
    arrivals = 0
    while queue:
        height, _, (y, x) = heapq.heappop(queue)
        for place in ((y + down, x + right) for down, right in STEPS):
            is_inside = min(place) >= 0 and place[0] < labels.shape[0] and place[1] < labels.shape[1]
            if is_inside and is_open[place] and not labels[place]:
                labels[place] = labels[y, x]
                arrivals += 1
                heapq.heappush(queue, (max(height, depth[place]), arrivals, place))
    return labels


def waters(seed, num_markers=12, sigma=1.5, shape=(70, 83)):
    """Blobs with markers on a smooth ground with many hollows, all of different depth."""
    rng = np.random.default_rng(seed)
    depth = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    components, _ = ndimage.label(ndimage.gaussian_filter(rng.normal(size=shape), 4) > -0.03)
    label_map = np.zeros(shape, np.int32)
    places = rng.permutation(np.flatnonzero(components))[:num_markers]
    label_map.ravel()[places] = np.arange(1, num_markers + 1)
    has_marker = np.isin(components, components[label_map > 0])
    return label_map, has_marker & (label_map == 0), depth


@pytest.mark.parametrize("num_markers", [2, 12, 300])
@pytest.mark.parametrize("sigma", [0, 1.5, 6])
@pytest.mark.parametrize("seed", range(3))
def test_every_pixel_goes_where_a_queue_of_all_pixels_puts_it(num_markers, sigma, seed):
    maps = waters(seed, num_markers, sigma)
    expected = plain_flood(*maps)
    assert (expected[maps[1]] > 0).all() and maps[1].sum() > 500
    np.testing.assert_array_equal(flood(*maps), expected)


def water_levels(label_map, is_open, depth, may_flow):
    """The lowest level at which water comes from a marker to each pixel, step by step until nothing changes."""
    start = np.where(label_map > 0, depth, np.inf)
    levels, before = start, None
    while before is None or not np.array_equal(levels, before):
        before, levels = levels, start.copy()
        for (down, right), flows in zip(STEPS, may_flow, strict=True):
            come = np.roll(before, (down, right), (0, 1))
            levels = np.minimum(levels, np.where(flows & is_open, np.maximum(come, depth), np.inf))
    return levels


@pytest.mark.parametrize("seed", range(3))
def test_of_equal_depths_each_pixel_goes_to_water_that_comes_first(seed):
    label_map, is_open, depth = (np.pad(map_, 1) for map_ in waters(seed))
    depth = np.round(depth * 8)  # a few levels: ties everywhere
    labels = flood(label_map, is_open, depth)
    assert (labels[is_open] > 0).all()
    anywhere = [np.ones(labels.shape, bool)] * 4
    within = [labels == np.roll(labels, step, (0, 1)) for step in STEPS]
    np.testing.assert_array_equal(
        water_levels(label_map, is_open, depth, within), water_levels(label_map, is_open, depth, anywhere)
    )


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        ([0, 5, 5, 5, 5, 0], "111222"),  # a plateau is shared by distance
        (
            [0, 2, 5, 5, 5, 0],
            "111222",
        ),  # the water from the right has stood at it since 0, from the left since 2
        (
            [0, 4, 7, 4, 2, 0],
            "111222",
        ),  # the middle is reached from both sides at 4, which the left was first at
        ([0, 3, -9, -8, 6, 2, 0], "1111222"),  # a hollow belongs to the lower of its passes
        ([0, 6, -9, 3, -8, 4, 0], "1122222"),  # so do two, one behind another
        ([-5, 3, 1, 2, 3, 9, 0], "1111122"),
    ],
)
def test_a_row_between_two_markers_is_shared_as_by_hand(depth, expected):
    label_map = np.zeros((1, len(depth)), np.int32)
    label_map[0, [0, -1]] = 1, 2
    labels = flood(label_map, label_map == 0, np.array([depth], float))
    assert "".join(map(str, labels[0])) == expected
    mirrored = flood(label_map[:, ::-1], (label_map == 0)[:, ::-1], np.array([depth[::-1]], float))
    np.testing.assert_array_equal(mirrored[:, ::-1], labels)


def test_nothing_to_flood_leaves_the_labels_and_the_maps_as_they_are():
    label_map, is_open, depth = waters(0)
    copies = label_map.copy(), is_open.copy(), depth.copy()
    np.testing.assert_array_equal(flood(label_map, np.zeros_like(is_open), depth), label_map)
    flood(label_map, is_open, depth)
    for map_, copy in zip((label_map, is_open, depth), copies, strict=True):
        np.testing.assert_array_equal(map_, copy)
