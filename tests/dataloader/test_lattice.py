"""One lattice of windows over an image: every pixel once, valid sizes, one pooling grid, no more than needed."""

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest

from dataloader.lattice import lay_tiles


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
OVERLAPPING = Sizes(margin=32 + 2 * 3 * 16, multiple=16, remainder=0, smallest=144)
RULES = [FAST, ORIGINAL, LITE, OVERLAPPING]
SHAPES = [(1, 1), (7, 513), (200, 161), (1500, 20), (299, 401)]


def tiles_of(lattice):
    return [lattice.tile(row, column) for row, column in np.ndindex(lattice.shape)]


def size_of(box):
    return box[2] - box[0], box[3] - box[1]


def is_within(box, outer):
    return (np.array(box[:2]) >= outer[:2]).all() and (np.array(box[2:]) <= outer[2:]).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("window", [256, 320, 1100])
@pytest.mark.parametrize("options", [{}, {"is_exact": True}, {"largest_step": 100}, {"largest_step": 20}])
def test_tiles_keep_every_pixel_of_an_image_once_from_valid_windows(rule, window, options):
    side = rule.largest_input(window)
    for shape in SHAPES:
        lattice = lay_tiles(shape, rule, side, **options)
        tiles = tiles_of(lattice)
        times = np.zeros(shape, int)
        for tile in tiles:
            top, left, bottom, right = tile.keep_yxyx
            times[top:bottom, left:right] += 1
            assert is_within(tile.keep_yxyx, tile.output_yxyx)
            before, after = rule.margin // 2, rule.margin - rule.margin // 2
            grown = np.array(tile.output_yxyx) + (-before, -before, after, after)
            assert tile.input_yxyx == tuple(grown)
        assert (times == 1).all()
        (size,) = {size_of(tile.input_yxyx) for tile in tiles}
        assert all(rule.is_valid(n) and n <= side for n in size)
        if "largest_step" in options:
            assert max(lattice.steps) <= max(options["largest_step"], rule.multiple)
        places = np.array(list(np.ndindex(lattice.shape)))
        np.testing.assert_array_equal(lattice.keep_boxes(places), [tile.keep_yxyx for tile in tiles])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("is_exact", [False, True])
def test_a_box_meets_the_tiles_that_keep_pixels_of_it(rule, is_exact):
    rng = np.random.default_rng(1)
    shape = (500, 703)
    lattice = lay_tiles(shape, rule, rule.largest_input(320), is_exact=is_exact)
    for _ in range(20):
        top, left = rng.integers(0, shape)
        box = (top, left, *(rng.integers((top, left), shape) + 1))
        first_row, first_column, last_row, last_column = lattice.range_of(box)
        inside = set(product(range(first_row, last_row), range(first_column, last_column)))
        for place in np.ndindex(lattice.shape):
            keep = lattice.tile(*place).keep_yxyx
            is_met = keep[0] < box[2] and box[0] < keep[2] and keep[1] < box[3] and box[1] < keep[3]
            assert is_met == (place in inside)


@pytest.mark.parametrize("rule", RULES)
def test_short_sides_take_the_smallest_window_of_as_few_tiles_and_long_ones_the_largest(rule):
    largest = rule.largest_input(512) - rule.margin
    step = largest // rule.multiple * rule.multiple  # on the pooling grid
    for length in (1, 165, 400, 900, 2100, 9000):
        side = lay_tiles((length, 1), rule, 512).rows
        assert side.num_tiles == 1 + max(0, -(-(length - largest) // step))
        if side.num_tiles >= 8:
            assert side.window == rule.largest_input(512)
        elif side.window > rule.smallest_input(1):
            smaller = lay_tiles((length, 1), rule, side.window - rule.multiple).rows
            assert smaller.num_tiles > side.num_tiles


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("window", [320, 512])
def test_all_windows_see_the_image_on_one_pooling_grid(rule, window):
    starts = {
        tuple(np.mod(tile.input_yxyx[:2], rule.multiple))
        for shape in [(900, 1300), (61, 7000)]
        for tile in tiles_of(lay_tiles(shape, rule, window))
    }
    assert len(starts) == 1


def test_a_consep_image_is_one_tile_of_the_fast_network():
    tiles = tiles_of(lay_tiles((1000, 1000), FAST, 1096))
    assert [tile.input_yxyx for tile in tiles] == [(-46, -46, 1050, 1050)]


def test_a_strip_of_30000_by_200_gets_narrow_windows():
    lattice = lay_tiles((30000, 200), FAST, 1096)
    assert lattice.shape == (30, 1)
    assert lattice.columns.window == FAST.smallest_input(200)


def test_published_windows_step_by_their_output_from_the_corner():
    tiles = tiles_of(lay_tiles((400, 164), FAST, 256, largest_step=64, is_exact=True))
    assert [t.input_yxyx[:2] for t in tiles] == [(-46, -46), (118, -46), (282, -46)]
    (tile,) = tiles_of(lay_tiles((80, 80), ORIGINAL, 270, is_exact=True))
    assert tile.output_yxyx == (0, 0, 80, 80)


def test_windows_that_do_not_fit_the_network_are_refused_with_one_that_does():
    with pytest.raises(ValueError, match="window=270 .* set window=264 or 272"):
        lay_tiles((9, 9), FAST, 270, is_exact=True)
    with pytest.raises(ValueError, match="window=64 is too small.* set window=96 "):
        lay_tiles((9, 9), FAST, 64)
