"""Decode predicted maps into nuclei: HV gradients separate those that touch; ``targets`` encodes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from models.hovernet.channels import BACKGROUND, HORIZONTAL, VERTICAL
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

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
"""A pixel and its four neighbours, the connectivity of blobs, markers and nuclei."""

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
        nuclei_probability: (H, W) float in 0..1, probability of nucleus.
        hv: (2, H, W) float, horizontal and vertical map, about -1..1.
        type_probability: (T, H, W) float in 0..1, background first, or None.
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
        label_map = np.zeros(blobs.shape, np.int32)
        return label_map, describe(label_map, type_probability)
    if normalisation == "reference":
        boundary = _boundary_strength_reference(hv)
    else:
        boundary = _boundary_strength(hv, gradient_range)
    boundary[blobs == BACKGROUND] = 0
    markers = _markers(blobs, boundary < marker_threshold, min_size, is_split=normalisation == "window_free")
    label_map = _grow(markers, blobs, boundary)
    return label_map, describe(label_map, type_probability)


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
    new_ids = np.concatenate([[0], np.where(stays, np.cumsum(stays), 0)]).astype(np.int32)
    return new_ids[label_map], nuclei.select(stays).renumber()


def describe(label_map: np.ndarray, type_probability: np.ndarray | None = None) -> Nuclei:
    """Measure the nuclei of a label map, in time linear in its pixels.

    Args:
        label_map: (H, W) int32, 0 background, ids 1…K without gaps.
        type_probability: (T, H, W) float32 in 0..1, background first, or None.

    Returns:
        A row for each id, ascending. A nucleus's type is that of most of its pixels; background only where no
        pixel says otherwise.
    """
    boxes = _boxes(label_map)
    if not len(boxes):
        return Nuclei.empty(None if type_probability is None else len(type_probability))
    pixels = np.flatnonzero(label_map)
    rows = label_map.ravel()[pixels] - 1
    areas = np.bincount(rows, minlength=len(boxes))
    y, x = np.divmod(pixels, label_map.shape[1])
    centroids = np.stack([np.bincount(rows, along, len(boxes)) for along in (y, x)], axis=1) / areas[:, None]
    contours = [_contour(label_map, row + 1, box) for row, box in enumerate(boxes)]
    types, shares, means = _types(rows, areas, type_probability, pixels)
    return Nuclei(
        ids=np.arange(1, len(boxes) + 1, dtype=np.int32),
        boxes_yxyx=boxes,
        centroids=centroids,
        contour_points=np.concatenate(contours),
        contour_starts=np.concatenate([[0], np.cumsum([len(contour) for contour in contours])]).astype(
            np.int64
        ),
        types=types,
        type_shares=shares,
        type_probabilities=means,
    )


def _checked(
    nuclei_probability: np.ndarray, hv: np.ndarray, type_probability: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the maps as contiguous float32, or say what is wrong with them."""
    shape = np.shape(nuclei_probability)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"nuclei_probability is {shape}, but must be (H, W); decode one window at a time")
    if np.shape(hv) != (2, *shape):
        raise ValueError(
            f"hv is {np.shape(hv)}, but must be {(2, *shape)}; give both channels of the same window"
        )
    if type_probability is not None and (
        np.ndim(type_probability) != 3 or np.shape(type_probability)[1:] != shape
    ):
        raise ValueError(
            f"type_probability is {np.shape(type_probability)}, but must be (T, {shape[0]}, {shape[1]}); "
            "put types first, or give None"
        )
    types = None if type_probability is None else _finite(type_probability, "type_probability")
    return _finite(nuclei_probability, "nuclei_probability"), _finite(hv, "hv"), types


def _finite(maps: np.ndarray, name: str) -> np.ndarray:
    """Return ``maps`` as contiguous float32; ValueError where they hold NaN or infinity."""
    maps = np.ascontiguousarray(maps, np.float32)
    num_broken = maps.size - np.count_nonzero(np.isfinite(maps))
    if num_broken:
        raise ValueError(
            f"{name} holds {num_broken} NaN or infinite values; check the network's weights and precision"
        )
    return maps


def _large_components(is_inside: np.ndarray, min_size: int) -> tuple[np.ndarray, int]:
    """Label 4-connected components of at least ``min_size`` pixels, 1…C in (H, W) int32."""
    _, labels = cv2.connectedComponents(is_inside.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    is_large = np.bincount(labels.ravel()) >= min_size
    is_large[BACKGROUND] = False
    new_labels = np.cumsum(is_large, dtype=np.int32) * is_large
    return new_labels.astype(np.int32)[labels], int(is_large.sum())


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
    strengths = []
    for channel, order in ((HORIZONTAL, (1, 0)), (VERTICAL, (0, 1))):
        values = cv2.normalize(hv[channel], None, 0, 1, cv2.NORM_MINMAX, cv2.CV_32F)
        gradient = cv2.Sobel(values, cv2.CV_64F, *order, ksize=SOBEL_SIZE)
        strengths.append(1 - cv2.normalize(gradient, None, 0, 1, cv2.NORM_MINMAX, cv2.CV_32F))
    return np.maximum(*strengths)


def _markers(blobs: np.ndarray, is_inner: np.ndarray, min_size: int, *, is_split: bool) -> np.ndarray:
    """Label the cores of nuclei, (H, W) int32: inner pixels without holes, opened; small ones dropped.

    ``is_split``: a core that filling spread over two blobs, a ring and what it surrounds, is one for each.
    """
    cores = _fill_holes(((blobs != BACKGROUND) & is_inner).view(np.uint8))
    cores = cv2.morphologyEx(cores, cv2.MORPH_OPEN, MARKER_KERNEL)
    if is_split:
        cores &= (blobs != BACKGROUND).view(np.uint8)
    markers, _ = _large_components(cores.view(bool), min_size)
    return markers * (blobs != BACKGROUND)


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) uint8 0/1 with the zeros that no 4-connected path joins to the border set to 1."""
    outside = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    return np.ascontiguousarray(outside[1:-1, 1:-1] != 2).view(np.uint8)


def _grow(markers: np.ndarray, blobs: np.ndarray, boundary: np.ndarray) -> np.ndarray:
    """Give each pixel of a blob to a marker, (H, W) int32, ids 1…K without gaps; blobs without marker vanish.

    Only blobs with several markers need a watershed: the others belong to their marker whole.
    """
    pixels = np.flatnonzero(markers)
    marker_of = np.zeros(blobs.max() + 1, np.int32)
    ids, blob = markers.ravel()[pixels], blobs.ravel()[pixels]
    marker_of[blob] = ids
    has_several = np.zeros(len(marker_of), bool)
    has_several[blob[marker_of[blob] != ids]] = True
    label_map = marker_of[blobs]
    if has_several.any():
        depth = np.where(blobs != BACKGROUND, boundary.astype(np.float64) - 1, 0)
        depth = cv2.GaussianBlur(depth, (3, 3), 0)
        # The inside of a marker floods nobody: without it the queue is half as long, the result the same.
        is_surrounded = cv2.erode(((markers > 0) | (blobs == BACKGROUND)).view(np.uint8), CROSS).view(bool)
        is_shared = has_several[blobs]
        is_open = is_shared & ~is_surrounded
        np.copyto(label_map, markers, where=is_shared)
        np.copyto(label_map, watershed(depth, markers, mask=is_open), where=is_open)
    is_used = np.bincount(label_map.ravel()) > 0
    is_used[BACKGROUND] = False
    return (np.cumsum(is_used) * is_used).astype(np.int32)[label_map]


def _boxes(label_map: np.ndarray) -> np.ndarray:
    """Return (K, 4) int32 half-open boxes of the ids 1…K."""
    slices = ndimage.find_objects(label_map)
    boxes = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in slices]
    return np.array(boxes, np.int32).reshape(-1, 4)


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
    rows: np.ndarray, areas: np.ndarray, type_probability: np.ndarray | None, pixels: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return types (K,) int32, vote shares (K,) and mean probabilities (K, T) float32, or three None.

    Args:
        rows: (P,) which nucleus each nuclear pixel belongs to, 0…K-1.
        areas: (K,) pixels.
        type_probability: (T, H, W) float32, or None.
        pixels: (P,) the nuclear pixels' flat indices.
    """
    if type_probability is None:
        return None, None, None
    num_types, num_nuclei = len(type_probability), len(areas)
    probability = type_probability.reshape(num_types, -1)[:, pixels]
    means = (
        np.stack([np.bincount(rows, values, num_nuclei) for values in probability], axis=1) / areas[:, None]
    )
    ballots = rows.astype(np.int64) * num_types + probability.argmax(axis=0)
    votes = np.bincount(ballots, minlength=num_nuclei * num_types).reshape(num_nuclei, num_types)
    types = votes.argmax(axis=1)
    has_other = votes[:, 1:].any(axis=1)
    if has_other.any():
        types = np.where((types == BACKGROUND) & has_other, 1 + votes[:, 1:].argmax(axis=1), types)
    shares = votes[np.arange(num_nuclei), types] / areas
    return types.astype(np.int32), shares.astype(np.float32), means.astype(np.float32)
