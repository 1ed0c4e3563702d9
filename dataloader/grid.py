"""Integer windows only: what to read, what to write, which region owns a point; inference walks them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

Box = tuple[int, int, int, int]

REGION_ALIGNMENT = 32  # px; cores start at multiples of it, a multiple of every shipped network's stride


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
        output_yxyx: what the network's output covers; it may reach beyond the region and the image.
        keep_yxyx: the part to write; those of a region's tiles cover it exactly once.
    """

    input_yxyx: Box
    output_yxyx: Box
    keep_yxyx: Box

    @property
    def output_slices(self) -> tuple[slice, slice]:
        """(rows, columns) of the kept part in the network's output."""
        return _slices(self.keep_yxyx, self.output_yxyx)

    def region_slices(self, region_yxyx: Box) -> tuple[slice, slice]:
        """Return (rows, columns) of the kept part in an array that covers ``region_yxyx``."""
        return _slices(self.keep_yxyx, region_yxyx)


@dataclass(frozen=True)
class Region:
    """What is decoded at once. Boxes are half-open, in image pixels at the working resolution.

    Attributes:
        index: its place in ``TileGrid.regions``, row by row.
        core_yxyx: the part it owns; cores cover the image exactly once.
        box_yxyx: the core and its halo, within the image: maps are predicted over all of it.
    """

    index: int
    core_yxyx: Box
    box_yxyx: Box


@dataclass(frozen=True)
class TileGrid:
    """An image cut into regions of about equal size.

    Attributes:
        shape: (height, width) of the image at the working resolution, each at least 1.
        region_size: largest side of a core, px (rounded up to a multiple of 32 in effect).
        halo: px around a core; at least half the largest nucleus and what its gradients reach, e.g. 96.
    """

    shape: tuple[int, int]
    region_size: int
    halo: int

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or self.region_size < 1 or self.halo < 0:
            raise ValueError(
                f"shape={self.shape}, region_size={self.region_size}, halo={self.halo}: sides are at "
                "least 1 px and the halo at least 0; check the image and region_size"
            )

    @cached_property
    def _cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """Where cores start along y and along x, and the end of the last."""
        return _cut(self.shape[0], self.region_size), _cut(self.shape[1], self.region_size)

    @property
    def num_rows(self) -> int:
        """Rows of regions."""
        return len(self._cuts[0]) - 1

    @property
    def num_columns(self) -> int:
        """Regions in a row."""
        return len(self._cuts[1]) - 1

    def __len__(self) -> int:
        return self.num_rows * self.num_columns

    @property
    def regions(self) -> Iterator[Region]:
        """The regions, row by row."""
        return (self.region(index) for index in range(len(self)))

    def region(self, index: int) -> Region:
        """Return region ``index``, 0 .. len - 1, counted row by row."""
        row, column = divmod(index, self.num_columns)
        cuts_y, cuts_x = self._cuts
        top, bottom = int(cuts_y[row]), int(cuts_y[row + 1])
        left, right = int(cuts_x[column]), int(cuts_x[column + 1])
        box = (
            max(top - self.halo, 0),
            max(left - self.halo, 0),
            min(bottom + self.halo, self.shape[0]),
            min(right + self.halo, self.shape[1]),
        )
        return Region(index, (top, left, bottom, right), box)

    def owner(self, centroids: np.ndarray) -> np.ndarray:
        """Return which region owns each point: the one whose half-open core holds it.

        Args:
            centroids: (K, 2) (y, x) in image pixels; a point outside the image belongs to the nearest core's
                row and column.

        Returns:
            (K,) int64 region indices; no points give an empty array.
        """
        cuts_y, cuts_x = self._cuts
        rows = np.searchsorted(cuts_y[1:-1], centroids[:, 0], side="right")
        columns = np.searchsorted(cuts_x[1:-1], centroids[:, 1], side="right")
        return (rows * self.num_columns + columns).astype(np.int64)


def cut_tiles(box_yxyx: Box, rule: WindowRule, window: int, *, is_exact: bool = False) -> list[Tile]:
    """Cover a region with the fewest network windows, all of one size, as small as their number allows.

    Output boxes start at multiples of ``rule.multiple`` in the image's frame, so that a network sees each
    pixel on the same pooling grid whichever region asks; they overlap by less than that, and the overlap is
    trimmed. (Windows that give less output than that are placed end to end instead.) Height and width are
    chosen apart: windows may be rectangular.

    Args:
        box_yxyx: the region, half-open, not empty, in image pixels.
        rule: the network's geometry.
        window: largest input side, px.
        is_exact: use windows of exactly ``window`` that step by their output, from the region's corner, as
            the published 256 -> 164 and 270 -> 80 do; for comparison.

    Returns:
        The tiles, row by row.

    Raises:
        ValueError: ``window`` gives no output, or ``is_exact`` and it is not a valid size.
    """
    largest = _largest_input(rule, window)
    if is_exact and window != largest:
        raise ValueError(
            f"window={window} is not an input size of this network: n % {rule.multiple} must "
            f"be {rule.remainder}; set window={largest} or {largest + rule.multiple}"
        )
    rows = _spans(box_yxyx[0], box_yxyx[2], rule, largest, is_exact)
    columns = _spans(box_yxyx[1], box_yxyx[3], rule, largest, is_exact)
    return [
        Tile(*((y[0], x[0], y[1], x[1]) for y, x in zip(row, column, strict=True)))
        for row in rows
        for column in columns
    ]


Span = tuple[int, int]


def _spans(
    start: int, stop: int, rule: WindowRule, largest: int, is_exact: bool
) -> list[tuple[Span, Span, Span]]:
    """Return (input, output, keep) spans along one side that cover [start, stop)."""
    is_aligned = not is_exact and largest - rule.margin >= rule.multiple
    origin = start - start % rule.multiple if is_aligned else start
    side, step = (
        (largest, largest - rule.margin) if is_exact else _smallest_side(stop - origin, rule, largest)
    )
    spans = []
    for first in range(origin, stop, step):
        top, last = first - rule.margin // 2, first + side - rule.margin
        keep = (max(first, start), stop if last >= stop else first + step)
        spans.append(((top, top + side), (first, last), keep))
        if last >= stop:
            break
    return spans


def _smallest_side(length: int, rule: WindowRule, largest: int) -> tuple[int, int]:
    """Return the input side (up to ``largest``) and step for the fewest windows that cover ``length`` px."""
    if largest - rule.margin >= length:
        return _smallest_input(rule, length), length
    num_tiles = 1 + -(-(length - (largest - rule.margin)) // _aligned_step(largest, rule))
    side = _smallest_input(rule, -(-length // num_tiles))
    while _aligned_step(side, rule) * (num_tiles - 1) + side - rule.margin < length:
        side += rule.multiple
    return side, _aligned_step(side, rule)


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


def _aligned_step(side: int, rule: WindowRule) -> int:
    """Return the largest step that keeps windows of ``side`` on the pooling grid and leaves no gap."""
    output = side - rule.margin
    return output - output % rule.multiple if output >= rule.multiple else output


def _cut(length: int, size: int) -> np.ndarray:
    """Cut [0, length) into balanced parts of about ``size``, at multiples of 32 px; both ends included."""
    num_units = -(-length // REGION_ALIGNMENT)
    num_parts = min(num_units, -(-length // size))
    cuts = np.arange(num_parts + 1) * num_units // num_parts * REGION_ALIGNMENT
    return np.minimum(cuts, length)


def _slices(box_yxyx: Box, frame_yxyx: Box) -> tuple[slice, slice]:
    """Return ``box_yxyx`` as (rows, columns) of an array that covers ``frame_yxyx``."""
    top, left = frame_yxyx[:2]
    return slice(box_yxyx[0] - top, box_yxyx[2] - top), slice(box_yxyx[1] - left, box_yxyx[3] - left)
