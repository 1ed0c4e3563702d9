import numpy as np
import pytest

from dataloader.grid import TileGrid
from dataloader.slides import read_mirrored

SHAPES = [(1, 1), (7, 100), (1000, 1000), (3000, 20), (2967, 2220)]


STEPS = [(32, 32), (64, 48), (864, 7)]


@pytest.mark.parametrize("region_size", [50, 64, 1000])
@pytest.mark.parametrize("steps", STEPS)
def test_cores_cover_the_image_exactly_once(region_size, steps):
    for shape in SHAPES:
        times = np.zeros(shape, np.uint8)
        for region in TileGrid(shape, region_size, halo=16, steps=steps).regions:
            top, left, bottom, right = region.core_yxyx
            times[top:bottom, left:right] += 1
        assert (times == 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_regions_reach_a_halo_beyond_their_core_within_the_image(shape):
    for region in TileGrid(shape, 300, halo=64).regions:
        top, left, bottom, right = region.core_yxyx
        wanted = (max(top - 64, 0), max(left - 64, 0), min(bottom + 64, shape[0]), min(right + 64, shape[1]))
        assert region.box_yxyx == wanted


def test_regions_are_balanced_and_not_larger_than_asked():
    heights = [r.core_yxyx[2] - r.core_yxyx[0] for r in TileGrid((4100, 10), 2048, halo=0).regions]
    assert len(heights) == 3
    assert max(heights) <= 2048
    assert max(heights) - min(heights) <= 2 * 32


@pytest.mark.parametrize(("region_size", "halo"), [(50, 16), (300, 48), (300, 96), (2000, 0)])
@pytest.mark.parametrize("steps", STEPS)
def test_boxes_end_where_tiles_end_and_share_strips_of_two_halos(region_size, halo, steps):
    shape = (2967, 2220)
    grid = TileGrid(shape, region_size, halo, steps)
    for axis, step in enumerate(steps):
        spans = sorted({(r.box_yxyx[axis], r.box_yxyx[axis + 2]) for r in grid.regions})
        assert all(stop % step == 0 for _, stop in spans[:-1] if stop < shape[axis])
        assert all(above[1] - below[0] <= 2 * halo for above, below in zip(spans, spans[1:], strict=False))
        assert all(stop - start <= max(region_size, step) + 2 * halo for start, stop in spans)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_centroid_is_owned_by_the_one_region_whose_core_holds_it(shape):
    rng = np.random.default_rng(3)
    grid = TileGrid(shape, 300, halo=8)
    points = rng.uniform(0, np.array(shape) - 1, (200, 2))
    corners = np.array([region.core_yxyx[:2] for region in grid.regions], float)
    for point, owner in zip(
        np.concatenate([points, corners]), grid.owner(np.concatenate([points, corners])), strict=True
    ):
        holders = [
            r.index
            for r in grid.regions
            if r.core_yxyx[0] <= point[0] < r.core_yxyx[2] and r.core_yxyx[1] <= point[1] < r.core_yxyx[3]
        ]
        assert holders == [owner]


def test_no_centroids_have_no_owner():
    assert TileGrid((10, 10), 64, halo=8).owner(np.zeros((0, 2))).shape == (0,)


def test_settings_that_make_no_grid_are_refused():
    with pytest.raises(ValueError, match="region_size=0"):
        TileGrid((10, 10), 0, halo=8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 4), (40, 30)])
@pytest.mark.parametrize("box", [(-46, -46, 60, 55), (0, 0, 1, 1), (-3, 2, 4, 9), (10, 10, 25, 21)])
def test_mirrored_reading_equals_reflect_padding(shape, box):
    image = np.arange(shape[0] * shape[1] * 3, dtype=np.int64).reshape(*shape, 3)
    pad = 64
    padded = image
    for axis in (0, 1):  # numpy reflects a side of one pixel only by its edge
        widths = [(0, 0)] * 3
        widths[axis] = (pad, pad)
        padded = np.pad(padded, widths, mode="edge" if shape[axis] == 1 else "reflect")

    def read(inner):
        assert inner[0] >= 0 and inner[1] >= 0 and inner[2] <= shape[0] and inner[3] <= shape[1]
        return image[inner[0] : inner[2], inner[1] : inner[3]]

    wanted = padded[box[0] + pad : box[2] + pad, box[1] + pad : box[3] + pad]
    np.testing.assert_array_equal(read_mirrored(read, shape, box), wanted)
