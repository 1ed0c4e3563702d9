"""A level's pixels at the working resolution, so that pieces agree with the whole; ``Slide`` uses it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from scipy.sparse import csr_matrix

WHOLE_TOLERANCE = 1e-6  # a ratio this close to an integer is that integer
STRIP = 32  # working rows at once: floats of a whole region cost more in fresh memory than in arithmetic
CUBIC = -0.5  # Keys 1981, "Cubic convolution interpolation": the a that reproduces quadratics

ReadBox = Callable[[tuple[int, int, int, int]], np.ndarray]
Taps = tuple[np.ndarray, np.ndarray]


def resample(
    read: ReadBox, box_yxyx: tuple[int, int, int, int], ratio: float, shape: tuple[int, int]
) -> np.ndarray:
    """Return a box of working pixels, each a weighted mean of level pixels.

    Working pixel i covers the level interval [i * ratio, (i + 1) * ratio). The weights depend on i alone,
    never on the box: two boxes that share a pixel give it the same value. ``cv2.resize`` places every box at
    its own origin and so cannot, except where the ratio is an integer; there it is used, being faster.

    Args:
        read: gives (h, w, 3) uint8 for a box of level pixels within the level's bounds.
        box_yxyx: half-open box of working pixels, not empty.
        ratio: level pixels to a working pixel; above 1 shrinks (area mean), below 1 enlarges (cubic).
        shape: (height, width) of the level; its edge pixels repeat outwards.

    Returns:
        (h, w, 3) uint8.
    """
    whole = round(ratio)
    if whole >= 1 and abs(ratio - whole) < WHOLE_TOLERANCE:
        top, left, bottom, right = (side * whole for side in box_yxyx)
        if bottom <= shape[0] and right <= shape[1]:
            pixels = read((top, left, bottom, right))
            size = (box_yxyx[3] - box_yxyx[1], box_yxyx[2] - box_yxyx[0])
            return pixels if whole == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        ratio = float(whole)
    taps = _area_taps if ratio >= 1 else _cubic_taps
    rows = _normalised(taps(box_yxyx[0], box_yxyx[2], ratio, shape[0]), shape[0])
    columns, left, right = _matrix(_normalised(taps(box_yxyx[1], box_yxyx[3], ratio, shape[1]), shape[1]))
    top, bottom = int(rows[0].min()), int(rows[0].max()) + 1
    pixels = read((top, left, bottom, right))
    region = np.empty((box_yxyx[2] - box_yxyx[0], box_yxyx[3] - box_yxyx[1], 3), np.uint8)
    for start in range(0, len(region), STRIP):
        strip = slice(start, start + STRIP)
        weights, first, last = _matrix((rows[0][strip], rows[1][strip]))
        halfway = _apply(weights, pixels[first - top : last - top])
        mean = _apply(
            columns, cv2.transpose(halfway)
        )  # cv2 moves whole pixels; numpy takes three times as long
        region[strip] = cv2.transpose(cv2.add(mean, 0.0, dtype=cv2.CV_8U))  # to the nearest, held to 0..255
    return region


def _area_taps(start: int, stop: int, ratio: float, size: int) -> Taps:
    """Return level indices and weights, (n, taps) each: each level pixel's share of a working pixel."""
    low = np.arange(start, stop) * ratio
    high = np.minimum(low + ratio, size)
    low = np.minimum(low, size - 0.5)  # a trimmed level may end before the working image does
    indices = np.floor(low).astype(np.int64)[:, None] + np.arange(int(np.ceil(ratio)) + 1)
    weights = np.minimum(high[:, None], indices + 1) - np.maximum(low[:, None], indices)
    return indices, np.maximum(weights, 0)


def _cubic_taps(start: int, stop: int, ratio: float, size: int) -> Taps:
    """Return level indices and weights, (n, 4) each, of Keys' cubic at each working pixel's centre."""
    centre = (np.arange(start, stop) + 0.5) * ratio - 0.5
    indices = np.floor(centre).astype(np.int64)[:, None] + np.arange(-1, 3)
    distance = np.abs(centre[:, None] - indices)
    near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
    far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return indices, np.where(distance <= 1, near, far)


def _normalised(taps: Taps, size: int) -> Taps:
    """Return taps with weights that sum to 1, float32, those beyond a level of ``size`` on its edge pixels."""
    indices, weights = taps
    return np.clip(indices, 0, size - 1), (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _matrix(taps: Taps) -> tuple[csr_matrix, int, int]:
    """Return the sparse (n, last - first) matrix of weights and its level span [first, last)."""
    indices, weights = taps
    first, last = int(indices.min()), int(indices.max()) + 1
    ends = np.arange(len(indices) + 1) * indices.shape[1]
    matrix = csr_matrix(
        (weights.ravel(), (indices - first).ravel(), ends), shape=(len(indices), last - first)
    )
    return matrix, first, last


def _apply(matrix: csr_matrix, pixels: np.ndarray) -> np.ndarray:
    """Multiply along the first axis: (n, h) with (h, w, C) gives (n, w, C) float32."""
    flat = np.asarray(pixels, np.float32, order="C").reshape(len(pixels), -1)
    return (matrix @ flat).reshape(-1, *pixels.shape[1:])
