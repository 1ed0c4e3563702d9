"""Boxes that reach beyond an image, filled by reflection: how the network sees the border of an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def read_mirrored(
    read: Callable[[tuple[int, int, int, int]], np.ndarray],
    shape: tuple[int, int],
    box_yxyx: tuple[int, int, int, int],
) -> np.ndarray:
    """Read a box of an image that continues by mirroring at its edge pixels, as often as the box needs.

    The same as ``np.pad(image, …, mode="reflect")`` and a crop, without the image in memory; a side of one
    pixel repeats that pixel.

    Args:
        read: gives (h, w, ...) for a half-open box within the image.
        shape: (height, width) of the image, each at least 1, in the box's pixels.
        box_yxyx: half-open, not empty; it may lie anywhere.

    Returns:
        (box height, box width, ...), in ``read``'s dtype.
    """
    rows = _reflect(box_yxyx[0], box_yxyx[2], shape[0])
    columns = _reflect(box_yxyx[1], box_yxyx[3], shape[1])
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    pixels = read((top, left, bottom, right))
    if (top, left, bottom, right) == tuple(box_yxyx):
        return pixels
    return pixels[(rows - top)[:, None], (columns - left)[None, :]]


def _reflect(start: int, stop: int, size: int) -> np.ndarray:
    """Return, for each index in [start, stop), the index in [0, size) it mirrors; the edge is not doubled."""
    period = max(1, 2 * (size - 1))
    folded = np.arange(start, stop) % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros(stop - start, np.int64)
