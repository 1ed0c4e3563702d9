"""Outlines of one nucleus: from contour to mask, from mask to the ring along its pixels' edges, and back."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage
from skimage.draw import polygon2mask

ENLARGED = 2  # the mask is doubled, so that each pixel has a side on every edge


def trace_contour(mask: np.ndarray) -> np.ndarray:
    """Return the outer contour of the largest piece, through the centres of its border pixels.

    Args:
        mask: (h, w) bool or uint8, not empty.

    Returns:
        (P, 2) int32 (y, x) in the mask's frame, not closed.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return max(contours, key=cv2.contourArea)[:, 0, ::-1]


def fill_contour(contour: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the pixels that a contour through pixel centres encloses, its own included.

    Args:
        contour: (P, 2) int32 (y, x), P at least 1.

    Returns:
        mask (h, w) uint8 0 or 1, and (y, x) of its corner in the contour's frame.
    """
    corner = contour.min(0)
    mask = np.zeros(contour.max(0) - corner + 1, np.uint8)
    points = np.ascontiguousarray((contour - corner)[:, ::-1], dtype=np.int32)
    cv2.drawContours(mask, [points[:, None]], -1, 1, cv2.FILLED)
    return mask, (int(corner[0]), int(corner[1]))


def ring_along_edges(contour: np.ndarray) -> np.ndarray:
    """Return the ring that runs along the edges of the pixels that a contour encloses.

    Pixel (y, x) covers [y, y + 1) x [x, x + 1): the ring of a single pixel is its square. A contour through
    pixel centres would be half a pixel short on every side and could degenerate to a line; this ring holds
    exactly the nucleus's area and never touches itself. That follows from tracing one 4-connected piece (the
    largest), without holes, so that a corner where two of its pixels meet diagonally is passed once.

    Args:
        contour: (P, 2) int32 (y, x) through pixel centres, P at least 1.

    Returns:
        (V + 1, 2) int64 (y, x) pixel corners, closed, V at least 4; only corners where the direction changes.
    """
    mask, corner = fill_contour(contour)
    doubled = np.kron(_largest_piece(mask), np.ones((ENLARGED, ENLARGED), np.uint8))
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    edges = (contours[0][:, 0, ::-1].astype(np.int64) + 1) // ENLARGED
    edges = edges[(edges != np.roll(edges, 1, axis=0)).any(1)]
    turns = (np.sign(edges - np.roll(edges, 1, axis=0)) != np.sign(np.roll(edges, -1, axis=0) - edges)).any(1)
    ring = edges[turns] + corner
    return np.concatenate([ring, ring[:1]])


def contour_of_ring(ring: np.ndarray) -> np.ndarray:
    """Return the contour through pixel centres of the pixels that a ring along their edges encloses.

    Args:
        ring: (V + 1, 2) integers (y, x), pixel corners, closed.

    Returns:
        (P, 2) int32 (y, x), not closed.
    """
    corner = ring.min(0)
    shape = ring.max(0) - corner
    mask = polygon2mask(tuple(shape), ring - corner - 0.5)  # in the frame of pixel centres
    return (trace_contour(mask) + corner).astype(np.int32)


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return the largest 4-connected piece of a mask as (h, w) uint8."""
    pieces, num_pieces = ndimage.label(mask)
    if num_pieces == 1:
        return mask
    return (pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])).astype(np.uint8)
