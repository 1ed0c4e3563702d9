"""Decode predicted maps into nuclei: HV gradients separate those that touch; ``targets`` encodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from models.hovernet.channels import BACKGROUND, HORIZONTAL, VERTICAL
from models.hovernet.describe import describe, find_runs, widened
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

    In ``reference`` the label map is the reference's; among exactly equal depths another marker may get the pixel.

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
    types = None if type_probability is None else widened(type_probability)
    return widened(nuclei_probability), np.ascontiguousarray(hv, np.float32), types


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
    runs = find_runs(labels)
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
    runs = find_runs(markers)
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
