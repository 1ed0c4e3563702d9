"""Windows of a network on one lattice over a whole image: what to read, what comes out, who keeps which pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from dataloader.grid import Box

# tiles; from here on a window smaller than the largest saves little, and an engine wants one size
LONG_SIDE = 8


class WindowRule(Protocol):
    """A network's sizes along one side, as its geometry states them.

    Input n is valid where ``n >= smallest`` and ``n % multiple == remainder``.

    Attributes:
        margin: input side minus output side, px; ``margin // 2`` of it lies above and to the left.
        multiple: the network's total stride, px. Windows whose starts differ by a multiple of it see the
            image on the same pooling grid.
        remainder: in 0..multiple - 1.
        smallest: smallest valid input side, px; more than ``margin``.
    """

    @property
    def margin(self) -> int: ...  # noqa: D102  described above; a property, so that frozen classes fit

    @property
    def multiple(self) -> int: ...  # noqa: D102

    @property
    def remainder(self) -> int: ...  # noqa: D102

    @property
    def smallest(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Tile:
    """A network window: what goes in, what comes out and which part of that is kept.

    All boxes are half-open, in image pixels at the working resolution.

    Attributes:
        input_yxyx: read this; it may reach beyond the image, which is mirrored there.
        output_yxyx: what the network's output covers; it may reach beyond the image.
        keep_yxyx: the part to use; those of a lattice's tiles cover the image exactly once.
    """

    input_yxyx: Box
    output_yxyx: Box
    keep_yxyx: Box


@dataclass(frozen=True)
class LatticeSide:
    """The tiles along one side of an image.

    Attributes:
        length: of the image, px, at least 1.
        window: side of the network's input, px.
        margin: input side minus output side, px.
        step: from one tile's output to the next one's, px; at most the output's side.
    """

    length: int
    window: int
    margin: int
    step: int

    @property
    def num_tiles(self) -> int:
        """How many windows cover the side; the last is used as far as its output reaches."""
        return 1 + max(0, -(-(self.length - self.window + self.margin) // self.step))

    @cached_property
    def edges(self) -> np.ndarray:
        """Where tiles start, and the end of the last: (num_tiles + 1,) int64 px."""
        return np.append(np.arange(self.num_tiles) * self.step, self.length)

    def range_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the tiles, half-open, that [start, stop), not empty, within the image, has pixels of."""
        last = self.num_tiles - 1
        return min(start // self.step, last), min((stop - 1) // self.step, last) + 1


@dataclass(frozen=True)
class TileLattice:
    """Tiles of one size at equal steps over an image: row i starts at pixel i * step, columns alike.

    Whoever asks for a pixel, in whatever region, thus gets it from the same window.

    Attributes:
        rows: tiles from top to bottom.
        columns: tiles from left to right.
    """

    rows: LatticeSide
    columns: LatticeSide

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return self.rows.num_tiles, self.columns.num_tiles

    @property
    def steps(self) -> tuple[int, int]:
        """Pixels from one tile to the next, down and to the right."""
        return self.rows.step, self.columns.step

    def range_of(self, box_yxyx: Box) -> Box:
        """Return the half-open box of tiles, (rows, columns), that a box of pixels within the image meets."""
        top, bottom = self.rows.range_of(box_yxyx[0], box_yxyx[2])
        left, right = self.columns.range_of(box_yxyx[1], box_yxyx[3])
        return top, left, bottom, right

    def keep_boxes(self, places: np.ndarray) -> np.ndarray:
        """Return `Tile.keep_yxyx` of (N, 2) (row, column) places: (N, 4) int64."""
        y, x = self.rows.edges, self.columns.edges
        rows, columns = places[:, 0], places[:, 1]
        return np.stack([y[rows], x[columns], y[rows + 1], x[columns + 1]], axis=1)

    def tile(self, row: int, column: int) -> Tile:
        """Return the tile at a place."""
        spans = [_spans(side, index) for side, index in ((self.rows, row), (self.columns, column))]
        return Tile(*((y[0], x[0], y[1], x[1]) for y, x in zip(*spans, strict=True)))


def lay_tiles(
    shape: tuple[int, int],
    rule: WindowRule,
    window: int,
    *,
    largest_step: int | None = None,
    is_exact: bool = False,
) -> TileLattice:
    """Cover an image with the fewest windows, all of one size.

    Steps are multiples of ``rule.multiple``, so that a network sees each pixel on the same pooling grid, as large
    as ``window`` allows. A side of few tiles takes windows as small as their number allows. (Windows that give less
    output than the multiple lie end to end instead.) Height and width are chosen apart: windows may be rectangular.

    Args:
        shape: (H, W) of the image, px.
        rule: the network's geometry.
        window: largest input side, px.
        largest_step: bound of the steps, px, at least ``rule.multiple`` in effect; None for none.
        is_exact: use windows of exactly ``window`` that step by their output, as the published 256 -> 164 and
            270 -> 80 do; for comparison.

    Raises:
        ValueError: ``window`` gives no output, or ``is_exact`` and it is not a valid size.
    """
    largest = _largest_input(rule, window)
    if is_exact and window != largest:
        raise ValueError(
            f"window={window} is not an input size of this network: n % {rule.multiple} must "
            f"be {rule.remainder}; set window={largest} or {largest + rule.multiple}"
        )
    if is_exact:
        step = largest - rule.margin
        return TileLattice(*(LatticeSide(length, largest, rule.margin, step) for length in shape))
    if largest_step is not None:
        step = max(largest_step - largest_step % rule.multiple, rule.multiple)
        largest = min(largest, _smallest_input(rule, step))
    return TileLattice(*(_lay_side(length, rule, largest) for length in shape))


def _lay_side(length: int, rule: WindowRule, largest: int) -> LatticeSide:
    side = _make_side(length, rule, largest)
    num_tiles = side.num_tiles
    if num_tiles >= LONG_SIDE:
        return side
    side = _make_side(length, rule, _smallest_input(rule, -(-length // num_tiles)))
    while side.num_tiles > num_tiles:
        side = _make_side(length, rule, side.window + rule.multiple)
    return side


def _make_side(length: int, rule: WindowRule, window: int) -> LatticeSide:
    """Return tiles at the largest step that keeps windows on the pooling grid and leaves no gap."""
    output = window - rule.margin
    step = output - output % rule.multiple if output >= rule.multiple else output
    return LatticeSide(length, window, rule.margin, step)


def _spans(side: LatticeSide, index: int) -> tuple[tuple[int, int], ...]:
    """Return (input, output, keep) spans of a tile along one side."""
    first, stop = int(side.edges[index]), int(side.edges[index + 1])
    top = first - side.margin // 2
    return (top, top + side.window), (first, first + side.window - side.margin), (first, stop)


def _smallest_input(rule: WindowRule, output: int) -> int:
    """Return the smallest valid input side whose output has at least ``output`` px."""
    needed = max(output + rule.margin, rule.smallest)
    return needed + (rule.remainder - needed) % rule.multiple


def _largest_input(rule: WindowRule, window: int) -> int:
    """Return the largest valid input side up to ``window`` px; ValueError where there is none."""
    side = window - (window - rule.remainder) % rule.multiple
    if side < rule.smallest:
        raise ValueError(
            f"window={window} is too small: this network takes at least {rule.smallest} px a side; "
            f"set window={rule.smallest} or more"
        )
    return side
