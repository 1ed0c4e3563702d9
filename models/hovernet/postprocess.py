"""Decode predicted maps into nuclei: HV gradients separate those that touch; ``targets`` encodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from models.hovernet.channels import BACKGROUND, HORIZONTAL, VERTICAL
from models.hovernet.flood import flood
from models.nuclei import Nuclei

NORMALISATIONS = ("window_free", "reference")
"""``window_free``: fixed ranges; ``reference``: each map's own minimum and maximum in its window."""

NUCLEI_THRESHOLD = 0.5
"""Probability from which a pixel is nuclear (Graham et al. 2019, section III-B)."""

MARKER_THRESHOLD = 0.4
"""Boundary strength, 0..1, below which a nuclear pixel is a marker (Graham et al. 2019, section III-B)."""

MIN_SIZE = 10
"""Pixels below which a blob or a marker is noise; the reference's value."""

SOBEL_SIZE = 21
"""Pixels; the reference's kernel, a derivative of a Gaussian of sigma √5."""

SOBEL_GAIN = 2.0 ** (2 * SOBEL_SIZE - 3)
"""Answer of OpenCV's Sobel to a slope of 1 a pixel: binomials sum to 2^20 across and to 2^19 along."""

GRADIENT_RANGE = (-0.28, 0.17)
"""HV units a pixel that ``window_free`` maps to boundary strength 1 and 0.

Over the 27 CoNSeP training images (1000x1000, 40x), encoded, the minima and maxima that ``reference`` takes
have the medians -0.28 and 0.19. At ``marker_threshold``, 0.6 of the way up, that is a gradient of 0.00: flat.
With 0.17 it is -0.01, so flat parts are safely markers: the labels come back with a PQ of 0.951 (with 0.19:
0.946; in ``reference``: 0.902).
"""

MARKER_KERNEL = np.array([[0, 0, 1, 0, 0], [1] * 5, [1] * 5, [1] * 5, [0, 0, 1, 0, 0]], np.uint8)
"""OpenCV's 5x5 ellipse, that opens markers."""

CONTEXT = SOBEL_SIZE // 2 + 1 + 2 * (len(MARKER_KERNEL) // 2)
"""Pixels around a blob beyond which nothing changes its ``window_free`` nuclei: Sobel, blur and opening."""


def decode(
    nuclei_probability: np.ndarray,
    hv: np.ndarray,
    type_probability: np.ndarray | None = None,
    normalisation: str = "window_free",
    *,
    nuclei_threshold: float = NUCLEI_THRESHOLD,
    marker_threshold: float = MARKER_THRESHOLD,
    min_size: int = MIN_SIZE,
    gradient_range: tuple[float, float] = GRADIENT_RANGE,
) -> tuple[np.ndarray, Nuclei]:
    """Separate the nuclei of a window by a watershed from markers (Graham et al. 2019, section III-B).

    Args:
        nuclei_probability: (H, W) float in 0..1, or uint8 in 0..255, probability of nucleus.
        hv: (2, H, W) float, horizontal and vertical map, about -1..1.
        type_probability: (T, H, W) float in 0..1, or uint8 in 0..255, background first, or None.
        normalisation: "window_free" (a nucleus does not depend on what else the window holds) or "reference".
        nuclei_threshold: probability from which a pixel is nuclear.
        marker_threshold: boundary strength, 0..1, below which a nuclear pixel is a marker.
        min_size: blobs and markers of fewer pixels are dropped.
        gradient_range: HV units a pixel to which ``window_free`` gives boundary strength 1 and 0.

    Returns:
        label_map: (H, W) int32, 0 background, 1…K.
        nuclei: the K nuclei of the map, row i that of id i + 1; with type columns where types are given.

    Raises:
        ValueError: for maps that differ in size or hold NaN or infinity, an unknown normalisation, or a range
            that does not rise.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(
            f"normalisation={normalisation!r} is not known; use one of: {', '.join(NORMALISATIONS)}"
        )
    if not gradient_range[0] < gradient_range[1]:
        raise ValueError(f"gradient_range={gradient_range} must rise: give the boundary's gradient first")
    nuclei_probability, hv, type_probability = _checked(nuclei_probability, hv, type_probability)
    blobs, num_blobs = _large_components(nuclei_probability >= nuclei_threshold, min_size)
    if num_blobs == 0:
        return blobs, describe(blobs, type_probability)
    if normalisation == "reference":
        boundary = _boundary_strength_reference(hv)
    else:
        boundary = _boundary_strength(hv, gradient_range)
    is_blob = blobs != BACKGROUND
    np.copyto(boundary, 1, where=~is_blob)
    markers = _markers(
        is_blob, boundary < marker_threshold, min_size, is_split=normalisation == "window_free"
    )
    label_map = _grow(markers, blobs, boundary)
    return label_map, describe(label_map, type_probability)


def full_maps(
    nuclei_probability: np.ndarray, hv: np.ndarray, type_probability: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return maps in single precision, whatever small form they come in; those in full are not copied.

    Args:
        nuclei_probability: (..., H, W) float in 0..1, or uint8, of which 255 stands for 1.
        hv: (..., 2, H, W) float.
        type_probability: (..., T, H, W) float in 0..1, or uint8, or None.

    Returns:
        the same maps as contiguous float32; a uint8 probability p is p / 255.
    """
    types = None if type_probability is None else _widened(type_probability)
    return _widened(nuclei_probability), np.ascontiguousarray(hv, np.float32), types


def _widened(probability: np.ndarray) -> np.ndarray:
    """Return probabilities as contiguous float32 in 0..1; of uint8, 255 stands for 1."""
    if np.asarray(probability).dtype == np.uint8:
        return np.divide(np.ascontiguousarray(probability), 255, dtype=np.float32)
    return np.ascontiguousarray(probability, np.float32)


def leave_out_small(
    label_map: np.ndarray, nuclei: Nuclei, min_areas: Sequence[int]
) -> tuple[np.ndarray, Nuclei]:
    """Leave out the nuclei that are smaller than those of their type may be.

    Args:
        label_map: (H, W) int32, 0 background, 1…K.
        nuclei: its K nuclei.
        min_areas: pixels for each of T types, background first, or one value where there are no types.

    Returns:
        label map and nuclei as ``decode`` gives them, numbered 1… anew.

    Raises:
        ValueError: for not as many values as types.
    """
    num_types = 1 if nuclei.type_probabilities is None else nuclei.type_probabilities.shape[1]
    if len(min_areas) != num_types:
        raise ValueError(
            f"min_areas={list(min_areas)} must hold {num_types} values, one for each type, background first"
        )
    areas = np.bincount(label_map.ravel(), minlength=len(nuclei) + 1)[1:]
    types = np.zeros(len(nuclei), np.int64) if nuclei.types is None else nuclei.types
    stays = areas >= np.asarray(min_areas)[types]
    return _renumbered(label_map, np.insert(stays, 0, False)), nuclei.select(stays).renumber()


def describe(label_map: np.ndarray, type_probability: np.ndarray | None = None) -> Nuclei:
    """Measure the nuclei of a label map, in time linear in its pixels.

    Args:
        label_map: (H, W) int32, 0 background, ids 1…K without gaps.
        type_probability: (T, H, W) float in 0..1, or uint8 in 0..255, background first, or None.

    Returns:
        A row for each id, ascending. A nucleus's type is that of most of its pixels; background only where no
        pixel says otherwise.
    """
    runs = _find_runs(label_map)
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


class _Runs(NamedTuple):
    """A label map's pixels along its rows, in stretches of one id; the background's as well.

    Attributes:
        starts: (R,) int64, flat index of each first pixel, ascending from 0.
        lengths: (R,) int64, pixels.
        ids: (R,) int32.
    """

    starts: np.ndarray
    lengths: np.ndarray
    ids: np.ndarray


def _find_runs(label_map: np.ndarray) -> _Runs:
    """Cut the rows of a contiguous (H, W) int32 map where ids change."""
    is_first = np.ones(label_map.shape, bool)
    np.not_equal(label_map[:, 1:], label_map[:, :-1], out=is_first[:, 1:])
    starts = np.flatnonzero(is_first)
    return _Runs(starts, np.diff(starts, append=label_map.size), label_map.ravel()[starts])


def check_shapes(nuclei_probability: Any, hv: Any, type_probability: Any = None) -> None:
    """Raise ValueError unless maps, of any library, are of one window: (H, W), (2, H, W), and (T, H, W) or None."""
    shape = tuple(np.shape(nuclei_probability))
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"nuclei_probability is {shape}, but must be (H, W); decode one window at a time")
    hv_shape = tuple(np.shape(hv))
    if hv_shape != (2, *shape):
        raise ValueError(
            f"hv is {hv_shape}, but must be {(2, *shape)}; give both channels of the same window"
        )
    types_shape = (1, *shape) if type_probability is None else tuple(np.shape(type_probability))
    if len(types_shape) != 3 or types_shape[1:] != shape:
        raise ValueError(
            f"type_probability is {types_shape}, but must be (T, {shape[0]}, {shape[1]}); "
            "put types first, or give None"
        )


def _checked(
    nuclei_probability: np.ndarray, hv: np.ndarray, type_probability: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the maps as contiguous float32, uint8 types as they are; or say what is wrong with them."""
    check_shapes(nuclei_probability, hv, type_probability)
    is_small = type_probability is not None and np.asarray(type_probability).dtype == np.uint8
    nuclei, hv, types = full_maps(nuclei_probability, hv, None if is_small else type_probability)
    for name, maps in (("type_probability", types), ("nuclei_probability", nuclei), ("hv", hv)):
        num_broken = 0 if maps is None else maps.size - np.count_nonzero(np.isfinite(maps))
        if num_broken:
            raise ValueError(
                f"{name} holds {num_broken} NaN or infinite values; check the network's weights and precision"
            )
    return nuclei, hv, np.asarray(type_probability) if is_small else types


def _large_components(is_inside: np.ndarray, min_size: int) -> tuple[np.ndarray, int]:
    """Label 4-connected components of at least ``min_size`` pixels, 1…C in (H, W) int32."""
    num_labels, labels = cv2.connectedComponents(is_inside.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    runs = _find_runs(labels)
    is_large = np.bincount(runs.ids, runs.lengths, num_labels) >= min_size
    is_large[BACKGROUND] = False
    return _renumbered(labels, is_large), int(is_large.sum())


def _renumbered(label_map: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """Number the ids that stay 1… anew; the others become background. The same map where all stay."""
    if stays[1:].all():
        return label_map
    new_ids = (np.cumsum(stays) * stays).astype(np.int32)
    return new_ids.take(label_map, mode="clip")  # without a check of each index


def _boundary_strength(hv: np.ndarray, gradient_range: tuple[float, float]) -> np.ndarray:
    """Return (H, W) float32 in 0..1: 1 where an HV map falls along its axis, from one nucleus to the next."""
    lowest, highest = gradient_range
    hv = np.clip(hv, -1, 1)
    along_x = cv2.Sobel(hv[HORIZONTAL], cv2.CV_32F, 1, 0, ksize=SOBEL_SIZE, scale=1 / SOBEL_GAIN)
    along_y = cv2.Sobel(hv[VERTICAL], cv2.CV_32F, 0, 1, ksize=SOBEL_SIZE, scale=1 / SOBEL_GAIN)
    strength: np.ndarray = np.minimum(along_x, along_y, out=along_x)
    strength -= np.float32(highest)
    strength *= np.float32(1 / (lowest - highest))
    return np.clip(strength, 0, 1, out=strength)


def _boundary_strength_reference(hv: np.ndarray) -> np.ndarray:
    """Return the same with each map, and each gradient, scaled from its minimum and maximum to 0..1."""
    weakness: list[np.ndarray] = []
    for channel, order in ((HORIZONTAL, (1, 0)), (VERTICAL, (0, 1))):
        values = cv2.normalize(hv[channel], None, 0, 1, cv2.NORM_MINMAX, cv2.CV_32F)
        gradient = cv2.Sobel(values, cv2.CV_64F, *order, ksize=SOBEL_SIZE)
        weakness.append(cv2.normalize(gradient, None, 0, 1, cv2.NORM_MINMAX, cv2.CV_32F))
    least = np.minimum(weakness[0], weakness[1], out=weakness[0])
    return np.subtract(1, least, out=least)


def _markers(is_blob: np.ndarray, is_inner: np.ndarray, min_size: int, *, is_split: bool) -> np.ndarray:
    """Label the cores of nuclei, (H, W) int32: inner pixels without holes, opened; small ones dropped.

    Each has pixels in a blob: what was filled is ringed by them, and opening leaves nothing of it by itself.
    ``is_split``: a core that filling spread over two blobs, a ring and what it surrounds, is one for each.
    """
    cores = _fill_holes((is_blob & is_inner).view(np.uint8))
    cores = cv2.morphologyEx(cores, cv2.MORPH_OPEN, MARKER_KERNEL)
    if is_split:
        cores &= is_blob.view(np.uint8)
    markers, _ = _large_components(cores.view(bool), min_size)
    if not is_split:
        np.copyto(markers, BACKGROUND, where=~is_blob)
    return markers


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) uint8 0/1 with the zeros that no 4-connected path joins to the border set to 1."""
    outside = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    return np.ascontiguousarray(outside[1:-1, 1:-1] != 2).view(np.uint8)


def _grow(markers: np.ndarray, blobs: np.ndarray, boundary: np.ndarray) -> np.ndarray:
    """Give each pixel of a blob to a marker, (H, W) int32, ids 1…K without gaps; blobs without marker vanish.

    Only blobs with several markers need a watershed: the others belong to their marker whole.
    """
    runs = _find_runs(markers)
    is_marker = runs.ids != BACKGROUND
    ids, blob = runs.ids[is_marker], blobs.ravel()[runs.starts[is_marker]]
    marker_of = np.zeros(blobs.max() + 1, np.int32)
    marker_of[blob] = ids
    is_shared = np.zeros(len(marker_of), bool)
    is_shared[blob[marker_of[blob] != ids]] = True
    marker_of[is_shared] = BACKGROUND
    label_map = marker_of.take(blobs, mode="clip")
    np.maximum(label_map, markers, out=label_map)
    if is_shared.any():
        depth = np.subtract(boundary, 1, dtype=np.float64)
        depth = cv2.GaussianBlur(depth, (3, 3), 0, dst=depth)
        is_open = is_shared.take(blobs, mode="clip") & (markers == BACKGROUND)
        label_map = flood(label_map, is_open, depth)
    return label_map


def _measure(runs: _Runs, num_nuclei: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    label_map: np.ndarray, runs: _Runs, areas: np.ndarray, type_probability: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return types (K,) int32, vote shares (K,) and mean probabilities (K, T) float32, or three None."""
    if type_probability is None:
        return None, None, None
    num_types, num_nuclei = len(type_probability), len(areas)
    is_nuclear = runs.ids != BACKGROUND
    rows, lengths = runs.ids[is_nuclear] - 1, runs.lengths[is_nuclear]
    pixels = np.flatnonzero(label_map != BACKGROUND)
    probability = [_widened(channel.ravel()[pixels]) for channel in type_probability]
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
