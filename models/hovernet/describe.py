"""Measure the nuclei of a label map: boxes, centroids, contours, types; ``postprocess`` makes both."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from models.hovernet.channels import BACKGROUND, FULL_LEVEL
from models.nuclei import Nuclei


def describe(label_map: np.ndarray, type_probability: np.ndarray | None = None) -> Nuclei:
    """Measure the nuclei of a label map, in time linear in its pixels.

    Args:
        label_map: (H, W) int32, 0 background, ids 1…K without gaps.
        type_probability: (T, H, W) float in 0..1, or uint8 in 0..255, background first, or None.

    Returns:
        A row for each id, ascending. A nucleus's type is that of most of its pixels; background only where no
        pixel says otherwise.
    """
    runs = find_runs(label_map)
    num_nuclei = int(runs.ids.max(initial=0))
    if not num_nuclei:
        return Nuclei.empty(None if type_probability is None else len(type_probability))
    areas, boxes, centroids = _measure(runs, num_nuclei, label_map.shape[1])
    points, starts = trace_contours(label_map, boxes)
    types, shares, means = _types(label_map, runs, areas, type_probability)
    return Nuclei(
        ids=np.arange(1, len(boxes) + 1, dtype=np.int32),
        boxes_yxyx=boxes,
        centroids=centroids,
        contour_points=points,
        contour_starts=starts,
        types=types,
        type_shares=shares,
        type_probabilities=means,
    )


def widened(probability: np.ndarray) -> np.ndarray:
    """Return probabilities as contiguous float32 in 0..1; of uint8, 255 stands for 1."""
    if np.asarray(probability).dtype == np.uint8:
        return np.divide(np.ascontiguousarray(probability), FULL_LEVEL, dtype=np.float32)
    return np.ascontiguousarray(probability, np.float32)


class Runs(NamedTuple):
    """A label map's pixels along its rows, in stretches of one id; the background's as well.

    Attributes:
        starts: (R,) int64, flat index of each first pixel, ascending from 0.
        lengths: (R,) int64, pixels.
        ids: (R,) int32.
    """

    starts: np.ndarray
    lengths: np.ndarray
    ids: np.ndarray


def find_runs(label_map: np.ndarray) -> Runs:
    """Cut the rows of a contiguous (H, W) int32 map where ids change."""
    is_first = np.ones(label_map.shape, bool)
    np.not_equal(label_map[:, 1:], label_map[:, :-1], out=is_first[:, 1:])
    starts = np.flatnonzero(is_first)
    return Runs(starts, np.diff(starts, append=label_map.size), label_map.ravel()[starts])


def _measure(runs: Runs, num_nuclei: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return areas (K,) float64, half-open boxes (K, 4) int32 and centroids (K, 2) float64 of the ids 1…K."""
    is_nuclear = runs.ids != BACKGROUND
    rows, lengths = runs.ids[is_nuclear] - 1, runs.lengths[is_nuclear]
    y, left = np.divmod(runs.starts[is_nuclear], width)
    right = left + lengths
    boxes = np.empty((num_nuclei, 4), np.int32)
    boxes[:, :2], boxes[:, 2:] = np.iinfo(np.int32).max, 0
    for column, values in ((0, y), (1, left)):
        np.minimum.at(boxes[:, column], rows, values.astype(np.int32))
    for column, values in ((2, y + 1), (3, right)):
        np.maximum.at(boxes[:, column], rows, values.astype(np.int32))
    areas = np.bincount(rows, lengths, num_nuclei)
    sums = [np.bincount(rows, along * lengths, num_nuclei) for along in (y, (left + right - 1) / 2)]
    return areas, boxes, np.stack(sums, axis=1) / areas[:, None]


def trace_contours(label_map: np.ndarray, boxes_yxyx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trace the outer contours of the nuclei of a label map.

    Args:
        label_map: (H, W) int32, 0 background, ids 1…K without gaps; K at least 1.
        boxes_yxyx: (K, 4) int, their half-open boxes.

    Returns:
        points: (P, 2) int32 (y, x), one contour after another.
        starts: (K + 1,) int64, where each begins in them, and the end of the last.
    """
    contours = [_contour(label_map, row + 1, box) for row, box in enumerate(boxes_yxyx)]
    starts = np.cumsum([0, *map(len, contours)], dtype=np.int64)
    return np.concatenate(contours), starts


def _contour(label_map: np.ndarray, nucleus: int, box_yxyx: np.ndarray) -> np.ndarray:
    """Return the outer contour, (P, 2) int32 (y, x), P at least 3; of several pieces, that of the largest.

    A nucleus a pixel thin has no polygon through its pixels: its box's corners stand in.
    """
    top, left, bottom, right = box_yxyx.tolist()
    mask = (label_map[top:bottom, left:right] == nucleus).view(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    contour = contours[0] if len(contours) == 1 else max(contours, key=cv2.contourArea)
    if len(contour) < 3:
        return np.array([(top, left), (top, right), (bottom, right), (bottom, left)], np.int32)
    return contour[:, 0, ::-1]


def _types(
    label_map: np.ndarray, runs: Runs, areas: np.ndarray, type_probability: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return types (K,) int32, vote shares (K,) and mean probabilities (K, T) float32, or three None."""
    if type_probability is None:
        return None, None, None
    num_types, num_nuclei = len(type_probability), len(areas)
    is_nuclear = runs.ids != BACKGROUND
    rows, lengths = runs.ids[is_nuclear] - 1, runs.lengths[is_nuclear]
    pixels = np.flatnonzero(label_map != BACKGROUND)
    probability = [widened(channel.ravel()[pixels]) for channel in type_probability]
    starts = np.cumsum(lengths) - lengths  # of the runs, among the nuclear pixels
    sums = [np.add.reduceat(values, starts, dtype=np.float64) for values in probability]
    means = np.stack([np.bincount(rows, values) for values in sums], axis=1) / areas[:, None]
    ballots = (label_map.ravel()[pixels] - 1) * num_types + _likeliest(probability)
    votes = np.bincount(ballots, minlength=num_nuclei * num_types).reshape(num_nuclei, num_types)
    types = votes.argmax(axis=1)
    has_other = votes[:, 1:].any(axis=1)
    if has_other.any():
        types = np.where((types == BACKGROUND) & has_other, 1 + votes[:, 1:].argmax(axis=1), types)
    shares = votes[np.arange(num_nuclei), types] / areas
    return types.astype(np.int32), shares.astype(np.float32), means.astype(np.float32)


def _likeliest(probability: list[np.ndarray]) -> np.ndarray:
    """Return the (P,) first type of the highest probability: ``argmax`` over types, in passes over pixels."""
    highest = probability[0].copy()
    types = np.zeros(highest.shape, np.min_scalar_type(len(probability)))
    for number, values in enumerate(probability[1:], start=1):
        np.maximum(types, (values > highest) * types.dtype.type(number), out=types)
        np.maximum(highest, values, out=highest)
    return types
