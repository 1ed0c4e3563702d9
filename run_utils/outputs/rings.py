"""Outlines of nuclei: contours through pixel centres, rings along pixel edges, and the way between them."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from models.nuclei import Nuclei

# Directions are counted clockwise as an image is seen: 0 right, 2 down, 4 left, 6 up, diagonals between.
# A pixel's sides are called by the direction in which they lie.
STEPS = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 0)])
NOWHERE = 8  # of a contour that is a single point
DIRECTIONS = np.array([[5, 6, 7], [4, NOWHERE, 0], [3, 2, 1]], np.int8)  # by the signs of (dy, dx), plus 1
SIDE_STARTS = np.array([(0, 1), (0, 0), (1, 1), (0, 0), (1, 0), (0, 0), (0, 0), (0, 0)])
"""Corner of a pixel, (y, x), where a clockwise walk enters each side; only even rows are used."""


class Outlines(NamedTuple):
    """K outlines, one after another; of a contour the end is left out, of a ring it repeats the beginning.

    Attributes:
        points: (P, 2) integers (y, x).
        starts: (K + 1,) int64; outline i is ``points[starts[i]:starts[i + 1]]``, never empty.
    """

    points: np.ndarray
    starts: np.ndarray


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


def contours_of(nuclei: Nuclei) -> Outlines:
    """Return the contours of K nuclei, none reaching beyond its box: a thin one may be given as its box's corners."""
    last_pixels = np.repeat(nuclei.boxes_yxyx[:, 2:] - 1, np.diff(nuclei.contour_starts), axis=0)
    return Outlines(np.minimum(nuclei.contour_points, last_pixels), nuclei.contour_starts)


def rings_of(nuclei: Nuclei) -> Outlines:
    """Return the rings of K nuclei; see ``rings_along_edges``."""
    return rings_along_edges(contours_of(nuclei))


def rings_along_edges(contours: Outlines) -> Outlines:
    """Return the rings that run along the edges of the pixels that contours enclose.

    Pixel (y, x) covers [y, y + 1) x [x, x + 1): the ring of a single pixel is its square. A contour through
    pixel centres would be half a pixel short on every side and could degenerate to a line; a ring holds exactly
    the pixels' area and never touches itself. Where a contour encloses pixels that only meet at corners, the
    ring is that of the largest 4-connected piece.

    Args:
        contours: through pixel centres, as ``cv2.findContours`` traces them, in either sense.

    Returns:
        Closed rings of int64 (y, x) pixel corners, clockwise as an image is seen, so that the area in (x, y) is
        positive; only corners where the direction changes, at least 4 and the first once more.
    """
    if len(contours.starts) == 1:
        return Outlines(np.zeros((0, 2), np.int64), contours.starts)
    contours = _clockwise(contours)
    rings = _walk_sides(contours)
    broken = _find_broken(contours, rings)
    if len(broken):
        pieces = np.split(contours.points, contours.starts[1:-1])
        for index in broken:
            pieces[index] = _trace_largest_piece(pieces[index])
        rings = _walk_sides(_clockwise(_join(pieces)))
    return close(rings)


def contours_of_rings(rings: Outlines) -> Outlines:
    """Return the contours through pixel centres of the pixels that rings along their edges enclose.

    Args:
        rings: closed, of (y, x) pixel corners, in either sense.

    Returns:
        Contours of int32 (y, x), of points where the direction changes.
    """
    if len(rings.starts) == 1:
        return Outlines(np.zeros((0, 2), np.int32), rings.starts)
    corners, starts = _clockwise(_open(rings))
    steps = after(corners, starts) - corners
    heading = DIRECTIONS[tuple(np.sign(steps).T + 1)]
    first = corners - SIDE_STARTS[(heading - 2) % 8]  # pixel on the right of the edge's beginning
    last = first + steps - STEPS[heading]
    pixels = Outlines(np.stack([first, last], axis=1).reshape(-1, 2), 2 * starts)
    pixels = _keep(pixels, (pixels.points != _before(*pixels)).any(1))
    heading = DIRECTIONS[tuple(np.sign(after(*pixels) - pixels.points).T + 1)]
    points, starts = _keep(pixels, heading != _before(heading, pixels.starts))
    return Outlines(points.astype(np.int32), starts)


def ring_along_edges(contour: np.ndarray) -> np.ndarray:
    """Return the closed (V + 1, 2) int64 ring of one (P, 2) contour; see ``rings_along_edges``."""
    return rings_along_edges(_join([contour])).points


def contour_of_ring(ring: np.ndarray) -> np.ndarray:
    """Return the (P, 2) int32 contour of one closed (V + 1, 2) ring; see ``contours_of_rings``."""
    return contours_of_rings(_join([ring])).points


def centroids_of_rings(rings: Outlines) -> np.ndarray:
    """Return (K, 2) float64 (y, x), the mean of the indices of the pixels that each closed ring encloses."""
    corners = _open(rings)
    starts = corners.starts
    origins = corners.points[starts[:-1]]
    points = (corners.points - np.repeat(origins, np.diff(starts), axis=0)).astype(np.float64)
    following = after(points, starts)
    weights = points[:, 1] * following[:, 0] - following[:, 1] * points[:, 0]
    sums = np.add.reduceat((points + following) * weights[:, None], starts[:-1])
    return origins + sums / (3 * np.add.reduceat(weights, starts[:-1]))[:, None] - 0.5


def signed_areas(outlines: Outlines) -> np.ndarray:
    """Return the (K,) float64 areas that open outlines enclose, positive where they run clockwise."""
    points = outlines.points.astype(np.int64)  # int32 cannot hold the product of two positions on a slide
    (y, x), (next_y, next_x) = points.T, after(points, outlines.starts).T
    return np.add.reduceat(x * next_y - next_x * y, outlines.starts[:-1]) / 2


def _walk_sides(contours: Outlines) -> Outlines:
    """Return the corners where the outer sides of the pixels along clockwise contours turn.

    At each pixel, what lies clockwise between where the contour comes from and where it goes to is outside.
    Along a straight row of pixels nothing turns: its first pixel is enough. A diagonal row turns at every pixel.
    """
    points, starts = contours
    delta = after(points, starts) - points
    heading = DIRECTIONS[tuple(np.sign(delta).T + 1)]
    visits = np.where(heading % 2 == 1, np.abs(delta[:, 0]), heading != NOWHERE)
    visits[starts[:-1]] += np.add.reduceat(visits, starts[:-1]) == 0  # a lone pixel
    vertex, along, starts = _expand(visits, starts)
    pixels = points[vertex] + STEPS[heading[vertex]] * along[:, None]
    leaving = heading[vertex]
    arriving = _before(leaving, starts)
    visit, turn, starts = _expand(NUM_SIDES[arriving, leaving], starts)
    side = (FIRST_SIDE[arriving, leaving][visit] + 2 * turn) % 8
    corners = Outlines(pixels[visit] + SIDE_STARTS[side], starts)
    return _keep(corners, side != _before(side, starts))


def _side_tables() -> tuple[np.ndarray, np.ndarray]:
    """Return (9, 9) int8, by arriving and leaving direction: the first outer side of a pixel, and how many."""
    arriving, leaving = np.mgrid[:8, :8]
    start = (arriving + 5) % 8  # next to where the contour comes from; certainly outside
    num_outside = (leaving - start) % 8
    first, count = np.zeros((2, 9, 9), np.int8)
    first[:8, :8] = start + start % 2
    count[:8, :8] = (num_outside + 1 - start % 2) // 2
    count[NOWHERE, NOWHERE] = 4
    return first, count


FIRST_SIDE, NUM_SIDES = _side_tables()


def _find_broken(contours: Outlines, rings: Outlines) -> np.ndarray:
    """Return which contours are no walk from pixel to pixel, or have a ring that meets itself in a corner."""
    down, right = np.abs(after(*contours) - contours.points).T
    is_jump = (down > 0) & (right > 0) & (down != right)
    jumping = np.searchsorted(contours.starts, np.flatnonzero(is_jump), "right") - 1
    y, x = rings.points.T
    height, width = np.ptp(y) + 1, np.ptp(x) + 1
    index = np.repeat(np.arange(len(rings.starts) - 1), np.diff(rings.starts))
    keys = np.sort((index * height + y - y.min()) * width + x - x.min())
    touching = keys[1:][keys[1:] == keys[:-1]] // (height * width)
    return np.union1d(jumping, touching)


def _trace_largest_piece(contour: np.ndarray) -> np.ndarray:
    """Return the contour of the largest 4-connected piece of the pixels that a contour encloses."""
    mask, corner = fill_contour(contour)
    pieces, _ = ndimage.label(mask)
    return trace_contour(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])) + corner


def _expand(counts: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each of ``counts`` repeats of a row the row and its number, and where outlines then start."""
    ends = np.concatenate([[0], np.cumsum(counts)])
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(ends[-1]) - ends[row], ends[starts]


def _keep(outlines: Outlines, is_kept: np.ndarray) -> Outlines:
    """Return the points that are kept; of an outline without any, the first."""
    points, starts = outlines
    is_kept[starts[:-1]] |= ~np.logical_or.reduceat(is_kept, starts[:-1])
    return Outlines(points[is_kept], np.concatenate([[0], np.cumsum(is_kept)])[starts])


def _clockwise(outlines: Outlines) -> Outlines:
    """Return the open outlines, those reversed that run counter-clockwise as an image is seen."""
    is_reversed = signed_areas(outlines) < 0
    if not is_reversed.any():
        return outlines
    lengths = np.diff(outlines.starts)
    order = np.arange(len(outlines.points))
    mirrored = np.repeat(outlines.starts[:-1] + outlines.starts[1:] - 1, lengths) - order
    return outlines._replace(
        points=outlines.points[np.where(np.repeat(is_reversed, lengths), mirrored, order)]
    )


def _before(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return for each value the one before it in its outline; before the first comes the last."""
    before = np.roll(values, 1, axis=0)
    before[starts[:-1]] = values[starts[1:] - 1]
    return before


def after(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return for each value the one after it in its outline; after the last comes the first."""
    after = np.roll(values, -1, axis=0)
    after[starts[1:] - 1] = values[starts[:-1]]
    return after


def close(outlines: Outlines) -> Outlines:
    """Return the outlines with the first point of each at its end once more."""
    points, starts = outlines
    num_before = np.arange(len(starts))
    return Outlines(np.insert(points, starts[1:], points[starts[:-1]], axis=0), starts + num_before)


def _open(rings: Outlines) -> Outlines:
    """Return closed rings without the last point of each."""
    points, starts = rings
    return Outlines(np.delete(points, starts[1:] - 1, axis=0), starts - np.arange(len(starts)))


def _join(pieces: list[np.ndarray]) -> Outlines:
    return Outlines(np.concatenate(pieces), np.cumsum([0, *map(len, pieces)]).astype(np.int64))
