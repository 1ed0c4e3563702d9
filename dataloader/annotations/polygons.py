"""Polygons to a label map, for the adapters whose nuclei were published as outlines.

Frame: (x, y) in px, pixel (row, column) covers ``[column, column + 1) x [row, row + 1)``, as in QuPath, COCO and
ImageScope. A pixel belongs to a polygon where its centre, ``(column + 0.5, row + 0.5)``, lies inside; a centre on
the border belongs to the right and lower side, so polygons that share a border neither overlap nor leave a gap.
``cv2.fillPoly`` has another rule: it paints each pixel that the border touches, which joins nuclei that touch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

Polygon = Sequence[np.ndarray]
"""Rings of (N, 2) float (x, y): the outer one, then its holes; open or closed, in either direction."""

MAX_COORDINATE = 1e9  # px; beyond it, products of coordinates lose the pixel, and no slide is as large
NUM_NAMED = 10  # nuclei that a line of the log names

logger = logging.getLogger(__name__)


def draw_polygons(
    nuclei: Sequence[Sequence[Polygon]],
    shape: tuple[int, int],
    *,
    names: Sequence[str] = (),
    source: str = "",
) -> np.ndarray:
    """Draw nuclei in their order, each with an id of its own; a later one paints over an earlier one.

    A nucleus of several polygons is one; holes stay as they were. What lies outside the image is cut off. One that
    covers no pixel's centre gets the pixel that it lies in. One that is left without a pixel, because it lies
    outside or others cover it, is named in the log.

    Args:
        nuclei: the polygons of each nucleus.
        shape: (H, W) of the image, px.
        names: of the nuclei, for the log; without them it numbers them from 1.
        source: file that they come from, for the log and for errors.

    Returns:
        (H, W) int32, 0 background; the nucleus at index i has id i + 1, so ids have gaps where one is lost.

    Raises:
        ValueError: for a ring that is not (N, 2) or has a coordinate that is not finite or far off.
    """
    label_map = np.zeros(shape, np.int32)
    for index, polygons in enumerate(nuclei):
        try:
            _draw_nucleus(label_map, index + 1, polygons)
        except ValueError as error:
            name = names[index] if names else f"nucleus {index + 1}"
            raise ValueError(f"{source}: {name}: {error}; mend the file") from error
    sizes = np.bincount(label_map.ravel(), minlength=len(nuclei) + 1)[1:]
    lost = np.flatnonzero(sizes == 0)
    if len(lost):
        shown = ", ".join(names[i] if names else str(i + 1) for i in lost[:NUM_NAMED])
        logger.warning(
            "%s: %d of %d nuclei have no pixel, as they lie outside the image or later ones cover them: %s%s",
            source or "polygons",
            len(lost),
            len(nuclei),
            shown,
            ", …" if len(lost) > NUM_NAMED else "",
        )
    return label_map


def _draw_nucleus(label_map: np.ndarray, number: int, polygons: Sequence[Polygon]) -> None:
    is_drawn = False
    for polygon in polygons:
        rings = [_check_ring(ring) for ring in polygon]
        rings = [rings[0], *(ring for ring in rings[1:] if len(ring))] if rings and len(rings[0]) else []
        if not rings:
            continue
        window, inside = _fill(rings, label_map.shape)
        label_map[window][inside] = number
        is_drawn = is_drawn or bool(inside.any())
    if not is_drawn:
        _draw_dot(label_map, number, [ring for polygon in polygons for ring in polygon[:1] if len(ring)])


def _check_ring(ring: np.ndarray) -> np.ndarray:
    points = np.asarray(ring, np.float64)
    if points.size and (points.ndim != 2 or points.shape[1] != 2):
        raise ValueError(f"a ring of shape {points.shape}; (N, 2) of x and y is needed")
    if not (np.abs(points) <= MAX_COORDINATE).all():
        raise ValueError(f"a ring with a coordinate that is not within ±{MAX_COORDINATE:g} px")
    return points


def _fill(rings: Polygon, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the window of a polygon's box and, within it, which pixels have their centre inside."""
    limits = np.array(shape)[::-1]
    left, top = np.clip(_first_centre(rings[0].min(axis=0)), 0, limits).astype(int)
    right, bottom = np.clip(_first_centre(rings[0].max(axis=0)), 0, limits).astype(int)
    window = slice(top, bottom), slice(left, right)
    inside = _wind(rings[0], window)
    for hole in rings[1:]:
        inside &= ~_wind(hole, window)
    return window, inside


def _first_centre(position: np.ndarray) -> np.ndarray:
    """Return the first pixel whose centre is at or beyond a position along an axis."""
    return np.ceil(position - 0.5)


def _wind(ring: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """Return which pixels of a window a ring winds around: each edge turns all pixels to its right by one.

    Edges are taken from their upper to their lower end, so two polygons that share one cut it at the same columns.
    """
    rows, columns = window
    num_rows, num_columns = rows.stop - rows.start, columns.stop - columns.start
    begin, end = ring, np.roll(ring, -1, axis=0)
    is_down = begin[:, 1] < end[:, 1]
    upper, lower = np.where(is_down[:, None], (begin, end), (end, begin))
    first = np.clip(_first_centre(upper[:, 1]), rows.start, rows.stop).astype(int)
    counts = np.clip(_first_centre(lower[:, 1]), rows.start, rows.stop).astype(int) - first
    edge = np.repeat(np.arange(len(ring)), counts)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
    crossing = upper[edge, 0] + (row + 0.5 - upper[edge, 1]) * slope
    column = np.clip(_first_centre(crossing), columns.start, columns.stop).astype(int) - columns.start
    turns = np.zeros((num_rows, num_columns + 1), np.int32)
    np.add.at(turns, (row - rows.start, column), np.where(is_down[edge], 1, -1))
    return np.cumsum(turns[:, :-1], axis=1) != 0


def _draw_dot(label_map: np.ndarray, number: int, rings: Sequence[np.ndarray]) -> None:
    """Paint the pixel at the middle of a nucleus's points, where it is in the image."""
    if not rings:
        return
    x, y = np.floor(np.concatenate(rings).mean(axis=0))
    if 0 <= y < label_map.shape[0] and 0 <= x < label_map.shape[1]:
        label_map[int(y), int(x)] = number
