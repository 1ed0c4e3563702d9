"""How alike images are: a small hash of their edges, which survives compression, brightness, turns and flips."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

SIDE = 16  # px of a thumbnail
# grey levels between neighbours that count as an edge; less is noise, and blank glass has none
LEAST_STEP = 3
LEAST_EDGES = 96  # of the 480 neighbours; an image with fewer shows too little to be told from others
ORIENTATIONS = 8
BLOCK = 512  # images compared at once: bounds memory


def make_thumbnail(image: np.ndarray) -> np.ndarray:
    """Return (16, 16) uint8, the mean grey level of each part of an (H, W, 3) uint8 RGB image."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def hash_edges(thumbnails: np.ndarray) -> np.ndarray:
    """Return unit vectors of the signs of the steps between neighbours; zeros where an image shows too little.

    Args:
        thumbnails: (N, 16, 16) uint8.

    Returns:
        (N, 480) float32; the scalar product of two is 1 for equal signs, about 0 for unrelated images.
    """
    values = thumbnails.astype(np.int16)
    steps = [np.diff(values, axis=axis).reshape(len(values), -1) for axis in (1, 2)]
    joined = np.concatenate(steps, axis=1)
    signs = (np.sign(joined) * (np.abs(joined) >= LEAST_STEP)).astype(np.float32)
    num_edges = np.abs(signs).sum(axis=1, keepdims=True)
    return np.where(num_edges >= LEAST_EDGES, signs / np.sqrt(np.maximum(num_edges, 1)), 0)


def find_alike(first: np.ndarray, second: np.ndarray, least: float) -> Iterator[tuple[int, int, float]]:
    """Yield which of two lists of images are alike, turned by quarters or flipped included.

    Args:
        first: (N, 16, 16) uint8 thumbnails.
        second: (M, 16, 16) uint8 thumbnails.
        least: likeness, up to 1, from which a pair is given.

    Yields:
        Position in ``first``, position in ``second``, likeness.
    """
    turned = [hash_edges(_orient(second, number)).T for number in range(ORIENTATIONS)]
    for start in range(0, len(first), BLOCK):
        hashes = hash_edges(first[start : start + BLOCK])
        likeness = hashes @ turned[0]
        for other in turned[1:]:
            np.maximum(likeness, hashes @ other, out=likeness)
        for row, column in np.argwhere(likeness >= least):
            yield start + int(row), int(column), float(likeness[row, column])


def _orient(thumbnails: np.ndarray, number: int) -> np.ndarray:
    turned = np.rot90(thumbnails, number % 4, axes=(1, 2))
    return turned if number < 4 else turned[:, :, ::-1]
