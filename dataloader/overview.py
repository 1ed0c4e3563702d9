"""A low-power picture of a whole slide, read block by block; tissue is looked for in it, and people look at it."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.sparse import csr_matrix

from dataloader.slides import Slide

# px of a slide's level that a thread reads at once: 12 MB, 50 MB where it has to be resampled
BLOCK_SIDE = 2048
FINENESS = 4  # px read to an overview's pixel, along a side, where the slide has as many
LARGEST_SHRINK = 64  # level px to a pixel read, so that a block holds whole ones
READ_THREADS = 4

Shape = tuple[int, int]


def read_overview(slide: Slide, pixel_limit: int = 1024 * 1024) -> np.ndarray:
    """Read a low-power picture of a whole slide.

    Pixel i of h is the mean of level-0 rows [i * H / h, (i + 1) * H / h), columns alike, taken from the
    coarsest level that is fine enough. A slide without such levels is decoded whole, but never held.

    Args:
        slide: its µm/px may be unknown.
        pixel_limit: most pixels of the picture.

    Returns:
        (h, w, 3) uint8 RGB of the slide's aspect, no larger than the slide.

    Raises:
        SlideError: the file cannot be decoded.
        ValueError: ``pixel_limit`` is below 1.
    """
    if pixel_limit < 1:
        raise ValueError(f"pixel_limit={pixel_limit} must be at least 1; 1048576 is the usual one")
    shape = _overview_shape(slide.shape_level0, pixel_limit)
    step, side = _choose_step(slide, shape)
    rows, columns = (_Axis(*sizes, step) for sizes in zip(slide.shape_level0, shape, strict=True))
    overview = np.zeros((*shape, 3), np.float32)
    blocks = [(row, column) for row in rows.cut(side) for column in columns.cut(side)]
    with ThreadPoolExecutor(num_read_threads(), thread_name_prefix="overview") as threads:
        for (top, left), part in threads.map(partial(_read_block, slide, rows, columns), blocks):
            overview[top : top + part.shape[0], left : left + part.shape[1]] += part
    return np.rint(overview).astype(np.uint8)


def overview_mpp(slide: Slide, overview: np.ndarray) -> float | None:
    """Return µm to a pixel of a slide's (h, w, 3) overview, None where the slide's is unknown."""
    return None if slide.mpp is None else slide.mpp * slide.shape_level0[0] / overview.shape[0]


def num_read_threads() -> int:
    """Return how many threads read blocks: of few CPUs one each, and a scheduler may give fewer than there are."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(READ_THREADS, usable)


@dataclass(frozen=True)
class _Axis:
    """One axis of a slide: ``num_pixels`` of the overview share ``size`` level-0 pixels, read ``step`` by ``step``."""

    size: int
    num_pixels: int
    step: float

    @property
    def num_read(self) -> int:
        """Pixels of ``step`` that ``Slide.read_scaled`` has."""
        return max(1, round(self.size / self.step))

    def cut(self, side: int) -> list[tuple[int, int]]:
        """Return the half-open ranges of pixels that are read at once."""
        return [(start, min(start + side, self.num_read)) for start in range(0, self.num_read, side)]

    def shares(self, start: int, stop: int) -> tuple[int, csr_matrix]:
        """Return the first overview pixel that pixels read [start, stop) reach, and sparse (n, stop - start) weights.

        A weight is what share of an overview pixel a pixel read covers; the last one reaches to the end.
        """
        read = np.arange(start, stop + 1) * self.step
        if stop == self.num_read:
            read[-1] = self.size
        read = read * (self.num_pixels / self.size)  # in overview pixels from here on
        first, last = math.floor(read[0]), min(math.ceil(read[-1]), self.num_pixels)
        pixels = np.arange(first, last)[:, None]
        weights = np.minimum(read[1:], pixels + 1) - np.maximum(read[:-1], pixels)
        return first, csr_matrix(np.maximum(weights, 0), dtype=np.float32)


def _overview_shape(shape_level0: Shape, pixel_limit: int) -> Shape:
    """Return the largest shape of at most ``pixel_limit`` pixels that keeps the aspect."""
    shrink = max(1.0, math.sqrt(shape_level0[0] * shape_level0[1] / pixel_limit))
    height, width = (max(1, int(side / shrink)) for side in shape_level0)
    return min(height, max(1, pixel_limit // width)), min(width, max(1, pixel_limit // height))


def _choose_step(slide: Slide, shape: Shape) -> tuple[float, int]:
    """Return level-0 pixels to a pixel read, and how many of those a block has along a side."""
    shrink = min(full / side for full, side in zip(slide.shape_level0, shape, strict=True))
    level = max((level.downsample for level in slide.levels if level.downsample <= shrink), default=1.0)
    fineness = max(1.0, shrink / level / FINENESS)
    times = min(
        2 ** math.floor(math.log2(fineness)), LARGEST_SHRINK
    )  # a power of two: blocks end where tiles do
    return level * times, BLOCK_SIDE // times


def _read_block(
    slide: Slide, rows: _Axis, columns: _Axis, block: tuple[tuple[int, int], tuple[int, int]]
) -> tuple[tuple[int, int], np.ndarray]:
    """Return what a block adds to the overview, (h, w, 3) float32, and (y, x) where."""
    (top, bottom), (left, right) = block
    pixels = slide.read_scaled((top, left, bottom, right), rows.step).astype(np.float32)
    y, row_shares = rows.shares(top, bottom)
    x, column_shares = columns.shares(left, right)
    halfway = _mix(row_shares, pixels).transpose(1, 0, 2)
    return (y, x), _mix(column_shares, halfway).transpose(1, 0, 2)


def _mix(shares: csr_matrix, pixels: np.ndarray) -> np.ndarray:
    """Multiply along the first axis: (n, h) with (h, w, 3) gives (n, w, 3)."""
    return (shares @ pixels.reshape(len(pixels), -1)).reshape(-1, *pixels.shape[1:])
