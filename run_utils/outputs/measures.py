"""Shapes of the nuclei of a part, all at once: areas and axes from their pixels, lengths from their contours."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import shapely

from models.nuclei import Nuclei
from run_utils.outputs.result import Part
from run_utils.outputs.rings import after, close, contours_of

EVEN_STEP, ODD_STEP, CORNER = 0.980, 1.406, -0.091
"""Length in pixels of a contour's straight and diagonal steps and of its corners, unbiased for straight lines of
any slope (Vossepoel & Smeulders 1982)."""

BORDER = 2 * math.sqrt(2)
"""Pixels by which a nucleus's outline is longer than its contour: that is an average of √2 / π px farther out (half
a pixel down or right, whichever is nearer to the normal, over all slopes), and 2π times that (Steiner's formula)."""

PIXEL_VARIANCE = 1 / 12  # px², of the points of a pixel around its centre


class Measures(NamedTuple):
    """Shapes of K nuclei, each (K,) float64, lengths in working pixels.

    Attributes:
        area: number of pixels.
        perimeter: length of the outer outline, holes left out.
        major_axis: length of the ellipse that has the same second moments; ``minor_axis`` its width.
        minor_axis: see ``major_axis``.
        eccentricity: of that ellipse, 0 (circle) to 1 (line).
        orientation: angle in radians, in (-π/2, π/2], from the x axis to the major axis; positive towards y, down.
        solidity: area / number of pixels in the convex hull, at most 1; 1 for a disc.
        circularity: 4π area / perimeter², at most 1; 1 for a disc.
    """

    area: np.ndarray
    perimeter: np.ndarray
    major_axis: np.ndarray
    minor_axis: np.ndarray
    eccentricity: np.ndarray
    orientation: np.ndarray
    solidity: np.ndarray
    circularity: np.ndarray


def measure(part: Part) -> Measures:
    """Measure a part's nuclei; a part without any gives empty arrays.

    Holes do not count as area. Of a nucleus in pieces the perimeter and the hull are those of the largest.
    """
    area, variance_x, variance_y, covariance = _moments(part)
    perimeter, hull = _outline_sizes(part.nuclei)
    mean, half_difference = (variance_x + variance_y) / 2, (variance_x - variance_y) / 2
    spread = np.hypot(half_difference, covariance)
    return Measures(
        area=area,
        perimeter=perimeter,
        major_axis=4 * np.sqrt(mean + spread),
        minor_axis=4 * np.sqrt(mean - spread),
        eccentricity=np.sqrt(2 * spread / (mean + spread)),
        orientation=np.arctan2(covariance, half_difference) / 2,
        solidity=np.minimum(area / hull, 1),
        circularity=np.minimum(4 * np.pi * area / perimeter**2, 1),
    )


def _moments(part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return each nucleus's number of pixels, variance of x and of y and their covariance, in pixels.

    The sums go over runs of pixels, from left to right, of which there are some thirty times fewer than pixels.
    """
    num_nuclei = len(part.nuclei)
    row, y, x, length = _runs(part.labels.unpack())
    sum_x = length * x + length * (length - 1) / 2
    sum_xx = length * x**2 + x * length * (length - 1) + length * (length - 1) * (2 * length - 1) / 6
    sums = [
        np.bincount(row, values, num_nuclei)
        for values in (length, sum_x, length * y, sum_xx, length * y**2, sum_x * y)
    ]
    area = sums[0]
    x_mean, y_mean, xx, yy, xy = (total / np.maximum(area, 1) for total in sums[1:])
    return area, xx - x_mean**2 + PIXEL_VARIANCE, yy - y_mean**2 + PIXEL_VARIANCE, xy - x_mean * y_mean


def _runs(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a label map's runs of one label within a row: label - 1, and y, x and length as float64."""
    width, labels = max(label_map.shape[1], 1), label_map.ravel()
    is_start = np.ones(labels.size, bool)
    np.not_equal(labels[1:], labels[:-1], out=is_start[1:])
    is_start[::width] = True
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=labels.size)
    is_nucleus = labels[starts] > 0
    starts, lengths = starts[is_nucleus], lengths[is_nucleus]
    y, x = np.divmod(starts, width)
    return labels[starts] - 1, y.astype(np.float64), x.astype(np.float64), lengths.astype(np.float64)


def _outline_sizes(nuclei: Nuclei) -> tuple[np.ndarray, np.ndarray]:
    """Return perimeters in pixels, and the numbers of pixels whose centres lie in the convex hulls of all centres.

    The latter follow from area and boundary points by Pick's theorem; a hull may be a line or a point.
    """
    if not len(nuclei):
        return np.zeros(0), np.zeros(0)
    contours = contours_of(nuclei)
    down, right = np.abs(after(*contours) - contours.points).T
    diagonal = np.minimum(down, right)
    lengths = EVEN_STEP * np.abs(down - right) + ODD_STEP * diagonal + CORNER * (down + right > 0)
    perimeter = np.add.reduceat(lengths, contours.starts[:-1]) + BORDER
    points, starts = close(contours)
    rows = np.repeat(np.arange(len(nuclei)), np.diff(starts))
    hulls = shapely.convex_hull(shapely.linestrings(points.astype(np.float64), indices=rows))
    corners, rows = shapely.get_coordinates(hulls, return_index=True)
    starts = np.searchsorted(rows, np.arange(len(nuclei) + 1))
    down, right = (after(corners, starts) - corners).astype(np.int64).T
    num_on_boundary = np.add.reduceat(np.gcd(down, right), starts[:-1])
    return perimeter, shapely.area(hulls) + num_on_boundary / 2 + 1
