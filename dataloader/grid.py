"""An image cut into regions: what is decoded at once, and which region owns a point. Integers, no pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Box = tuple[int, int, int, int]

DEFAULT_STEPS = (32, 32)  # px


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
    """An image cut into regions of about equal numbers of tiles.

    A region's box ends where a tile ends, at a multiple of ``steps``: with the next one it shares a strip of
    twice the halo, and no more.

    Attributes:
        shape: (height, width) of the image at the working resolution, each at least 1.
        region_size: largest side of a core, px, in effect at least a step; the last core of a row or column, which
            needs no halo beyond it, may be larger by the halo.
        halo: px around a core; at least half the largest nucleus and what its gradients reach, e.g. 96.
        steps: px from one tile of the image to the next, down and to the right.
    """

    shape: tuple[int, int]
    region_size: int
    halo: int
    steps: tuple[int, int] = DEFAULT_STEPS

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or self.region_size < 1 or self.halo < 0:
            raise ValueError(
                f"shape={self.shape}, region_size={self.region_size}, halo={self.halo}: sides are at "
                "least 1 px and the halo at least 0; check the image and region_size"
            )

    @cached_property
    def _cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """Where cores start along y and along x, and the end of the last."""
        sides = zip(self.shape, self.steps, strict=True)
        cuts_y, cuts_x = (_cut(length, step, self.region_size, self.halo) for length, step in sides)
        return cuts_y, cuts_x

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


def _cut(length: int, step: int, size: int, halo: int) -> np.ndarray:
    """Cut [0, length) into parts of about as many steps, a halo short of whole ones; both ends included."""
    num_tiles = -(-length // step)
    num_parts = 1 if length <= size else -(-num_tiles // max(size // step, 1))
    inner = np.arange(1, num_parts) * num_tiles // num_parts * step - halo % step
    return np.concatenate([[0], inner, [length]])
