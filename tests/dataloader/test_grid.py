from typing import NamedTuple

import numpy as np
import pytest

from dataloader.grid import TileGrid, cut_tiles
from dataloader.slides import read_mirrored


class Sizes(NamedTuple):
    margin: int
    multiple: int
    remainder: int
    smallest: int

    def smallest_input(self, output):
        return next(n for n in range(self.smallest, 10**6) if self.is_valid(n) and n - self.margin >= output)

    def largest_input(self, window):
        return next(n for n in range(window, 0, -1) if self.is_valid(n))

    def is_valid(self, side):
        return side >= self.smallest and side % self.multiple == self.remainder


FAST = Sizes(margin=92, multiple=8, remainder=0, smallest=96)
ORIGINAL = Sizes(margin=190, multiple=8, remainder=6, smallest=198)
LITE = Sizes(margin=64, multiple=32, remainder=0, smallest=96)
RULES = [FAST, ORIGINAL, LITE]
SHAPES = [(1, 1), (7, 100), (1000, 1000), (3000, 20), (2967, 2220)]


def paint(tiles, region):
    """How often each pixel of the region is written."""
    times = np.zeros((region[2] - region[0], region[3] - region[1]), int)
    for tile in tiles:
        times[tile.region_slices(region)] += 1
    return times


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("region_size", [50, 64, 1000])
def test_cores_cover_the_image_exactly_once(shape, region_size):
    times = np.zeros(shape, int)
    for region in TileGrid(shape, region_size, halo=16).regions:
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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "region", [(0, 0, 1, 1), (0, 0, 700, 513), (123, 45, 1000, 460), (960, 32, 961, 2000)]
)
@pytest.mark.parametrize("window", [256, 320, 1100])
@pytest.mark.parametrize("is_exact", [False, True])
def test_tiles_write_every_pixel_of_a_region_once_from_valid_windows(rule, region, window, is_exact):
    side = rule.largest_input(window)
    tiles = cut_tiles(region, rule, side, is_exact=is_exact)
    assert (paint(tiles, region) == 1).all()
    sizes = {(t.input_yxyx[2] - t.input_yxyx[0], t.input_yxyx[3] - t.input_yxyx[1]) for t in tiles}
    assert len(sizes) == 1
    for size in sizes.pop():
        assert rule.is_valid(size)
        assert size <= side
    for tile in tiles:
        rows, columns = tile.output_slices
        output = np.zeros(
            (tile.output_yxyx[2] - tile.output_yxyx[0], tile.output_yxyx[3] - tile.output_yxyx[1])
        )
        assert output[rows, columns].shape == tuple(np.subtract(tile.keep_yxyx[2:], tile.keep_yxyx[:2]))
        assert np.subtract(tile.output_yxyx[:2], tile.input_yxyx[:2]).tolist() == [rule.margin // 2] * 2
        assert (
            np.subtract(tile.input_yxyx[2:], tile.output_yxyx[2:]).tolist()
            == [rule.margin - rule.margin // 2] * 2
        )


@pytest.mark.parametrize("rule", RULES)
def test_no_smaller_window_covers_the_region_with_as_few_tiles(rule):
    for length in (1, 165, 400, 900, 2100):
        tiles = cut_tiles((0, 0, length, 1), rule, 512)
        largest = rule.largest_input(512) - rule.margin
        step = largest // rule.multiple * rule.multiple  # on the pooling grid
        assert len(tiles) == 1 + max(0, -(-(length - largest) // step))
        used = tiles[0].input_yxyx[2] - tiles[0].input_yxyx[0]
        if used > rule.smallest_input(1):
            smaller = cut_tiles((0, 0, length, 1), rule, used - rule.multiple)
            assert len(smaller) > len(tiles)


@pytest.mark.parametrize("rule", RULES)
def test_all_windows_of_all_regions_lie_on_one_pooling_grid(rule):
    grid = TileGrid((900, 1300), 300, halo=50)
    starts = {
        tuple(np.mod(tile.input_yxyx[:2], rule.multiple))
        for region in grid.regions
        for tile in cut_tiles(region.box_yxyx, rule, 320)
    }
    assert len(starts) == 1


def test_a_consep_image_is_one_tile_of_the_fast_network():
    tiles = cut_tiles((0, 0, 1000, 1000), FAST, 1096)
    assert [tile.input_yxyx for tile in tiles] == [(-46, -46, 1050, 1050)]


def test_a_strip_of_30000_by_200_gets_narrow_windows():
    region = (0, 0, 30000, 200)
    tiles = cut_tiles(region, FAST, 1096)
    assert (paint(tiles, region) == 1).all()
    assert len(tiles) == 30
    assert {t.input_yxyx[3] - t.input_yxyx[1] for t in tiles} == {FAST.smallest_input(200)}


def test_published_windows_step_by_their_output_from_the_corner():
    tiles = cut_tiles((0, 0, 400, 164), FAST, 256, is_exact=True)
    assert [t.input_yxyx[:2] for t in tiles] == [(-46, -46), (118, -46), (282, -46)]
    assert [t.output_yxyx for t in cut_tiles((0, 0, 80, 80), ORIGINAL, 270, is_exact=True)] == [
        (0, 0, 80, 80)
    ]


def test_windows_that_do_not_fit_the_network_are_refused_with_one_that_does():
    with pytest.raises(ValueError, match="window=270 .* set window=264 or 272"):
        cut_tiles((0, 0, 9, 9), FAST, 270, is_exact=True)
    with pytest.raises(ValueError, match="window=64 is too small.* set window=96 "):
        cut_tiles((0, 0, 9, 9), FAST, 64)


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
