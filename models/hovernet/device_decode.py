"""Decode maps where they lie: ``postprocess.decode`` by CuPy on a GPU, or step by step the same by NumPy and SciPy.

What comes to the host is the label map and the small table; only contours are traced there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from scipy import ndimage as scipy_ndimage
from torch import Tensor

from models.hovernet.channels import BACKGROUND, FULL_LEVEL, HORIZONTAL, VERTICAL
from models.hovernet.describe import trace_contours
from models.hovernet.device_kernels import flood
from models.hovernet.postprocess import (
    GRADIENT_RANGE,
    MARKER_KERNEL,
    MARKER_THRESHOLD,
    MIN_SIZE,
    NORMALISATIONS,
    NUCLEI_THRESHOLD,
    SOBEL_SIZE,
    check_shapes,
)
from models.nuclei import Nuclei

BLUR = (0.25, 0.5, 0.25)
"""OpenCV's Gaussian of 3 taps."""

_BORDER = "mirror"  # SciPy's word for OpenCV's default, BORDER_REFLECT_101


class _Arrays(NamedTuple):
    """What maps are worked on with: numpy and scipy.ndimage, or cupy and cupyx.scipy.ndimage."""

    xp: ModuleType
    ndimage: ModuleType


def decode_on_device(
    nuclei_probability: Any,
    hv: Any,
    type_probability: Any = None,
    normalisation: str = "window_free",
    *,
    nuclei_threshold: float = NUCLEI_THRESHOLD,
    marker_threshold: float = MARKER_THRESHOLD,
    min_size: int = MIN_SIZE,
    gradient_range: tuple[float, float] = GRADIENT_RANGE,
) -> tuple[np.ndarray, Nuclei]:
    """Separate the nuclei of a window as ``decode`` does, on the device that holds its maps.

    Args:
        nuclei_probability: (H, W) float in 0..1 or uint8 in 0..255, probability of nucleus. All maps are CuPy arrays,
            torch tensors or NumPy arrays; CUDA tensors are not copied, and are used on torch's current stream.
        hv: (2, H, W) float, horizontal and vertical map, about -1..1.
        type_probability: (T, H, W) float in 0..1 or uint8 in 0..255, background first, or None.
        normalisation: "window_free" or "reference".
        nuclei_threshold: probability from which a pixel is nuclear.
        marker_threshold: boundary strength, 0..1, below which a nuclear pixel is a marker.
        min_size: blobs and markers of fewer pixels are dropped.
        gradient_range: HV units a pixel to which ``window_free`` gives boundary strength 1 and 0.

    Returns:
        label_map: (H, W) int32 NumPy, 0 background, 1…K.
        nuclei: the K nuclei of the map, row i that of id i + 1; with type columns where types are given.

    Raises:
        ValueError: for maps that differ in size or hold NaN or infinity, an unknown normalisation, or a range
            that does not rise.
        ImportError: for maps on a GPU where CuPy is not installed.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(
            f"normalisation={normalisation!r} is not known; use one of: {', '.join(NORMALISATIONS)}"
        )
    if not gradient_range[0] < gradient_range[1]:
        raise ValueError(f"gradient_range={gradient_range} must rise: give the boundary's gradient first")
    with _arrays_of(nuclei_probability) as arrays:
        check_shapes(nuclei_probability, hv, type_probability)
        probability = _full(arrays.xp, nuclei_probability, "nuclei_probability")
        hv = _full(arrays.xp, hv, "hv")
        types = None if type_probability is None else _full(arrays.xp, type_probability, "type_probability")
        blobs, num_blobs = _large_components(arrays, probability >= nuclei_threshold, min_size)
        if num_blobs == 0:
            return np.zeros(blobs.shape, np.int32), Nuclei.empty(None if types is None else len(types))
        is_split = normalisation == "window_free"
        boundary = _boundary_strength(arrays, hv, gradient_range if is_split else None)
        is_inner = (blobs != BACKGROUND) & (boundary < marker_threshold)
        markers = _markers(arrays, blobs, is_inner, min_size, is_split=is_split)
        return _describe(arrays.xp, *_grow(arrays, markers, blobs, boundary), types)


@contextmanager
def _arrays_of(maps: Any) -> Iterator[_Arrays]:
    """Give what ``maps`` are worked on with; meanwhile CuPy works on their device and, after torch, on its stream."""
    if isinstance(maps, Tensor) and maps.is_cuda:
        arrays, device = _load_cupy(), maps.device.index
        cuda, stream = arrays.xp.cuda, torch.cuda.current_stream(maps.device).cuda_stream
        with cuda.Device(device), cuda.ExternalStream(stream, device):
            yield arrays
    elif isinstance(maps, (np.ndarray, Tensor)):
        yield _Arrays(np, scipy_ndimage)
    else:
        with maps.device:
            yield _load_cupy()


def _load_cupy() -> _Arrays:
    """Import CuPy; the one place of the models that does."""
    try:
        import cupy
        import cupyx.scipy.ndimage
    except ImportError as error:
        raise ImportError(
            "maps on a GPU are decoded by CuPy, which is missing: install the extra gpu (CUDA 12) or gpu13, or "
            "pass NumPy arrays to decode"
        ) from error
    return _Arrays(cupy, cupyx.scipy.ndimage)


def _full(xp: ModuleType, maps: Any, name: str) -> Any:
    """Return ``maps`` as contiguous float32 of ``xp``; ValueError where they hold NaN or infinity."""
    if isinstance(maps, Tensor):
        maps = xp.from_dlpack(maps.detach())
    if maps.dtype == np.uint8:
        return xp.ascontiguousarray(maps, np.float32) / np.float32(FULL_LEVEL)
    maps = xp.ascontiguousarray(maps, np.float32)
    num_broken = maps.size - int(xp.count_nonzero(xp.isfinite(maps)))
    if num_broken:
        raise ValueError(
            f"{name} holds {num_broken} NaN or infinite values; check the network's weights and precision"
        )
    return maps


def _large_components(arrays: _Arrays, is_inside: Any, min_size: int) -> tuple[Any, int]:
    """Label 4-connected components of at least ``min_size`` pixels, 1…C in (H, W) int32."""
    xp = arrays.xp
    labels, num = arrays.ndimage.label(is_inside)
    is_large = xp.bincount(labels.ravel(), minlength=num + 1) >= min_size
    is_large[BACKGROUND] = False
    return _renumber(xp, labels, is_large)


def _renumber(xp: ModuleType, labels: Any, stays: Any) -> tuple[Any, int]:
    """Return (H, W) int32 labels of which those that stay are 1…K, in their order, and K."""
    new_labels = xp.cumsum(stays, dtype=np.int32) * stays
    return new_labels[labels], int(stays.sum())


def _boundary_strength(arrays: _Arrays, hv: Any, gradient_range: tuple[float, float] | None) -> Any:
    """Return (H, W) float32 in 0..1: 1 where an HV map falls along its axis, from one nucleus to the next.

    Without a range, as the reference does: each map, and each gradient, is scaled by its minimum and maximum.
    """
    xp = arrays.xp
    axes = ((HORIZONTAL, 1), (VERTICAL, 0))
    if gradient_range is None:
        maps = [(_unit_range(hv[channel]).astype(np.float64), axis) for channel, axis in axes]
        return xp.maximum(*(1 - _unit_range(_slope(arrays, values, axis)) for values, axis in maps))
    lowest, highest = gradient_range
    hv = xp.clip(hv, -1, 1)
    steepest = xp.minimum(*(_slope(arrays, hv[channel], axis) for channel, axis in axes))
    return xp.clip((steepest - np.float32(highest)) * np.float32(1 / (lowest - highest)), 0, 1)


def _unit_range(values: Any) -> Any:
    """Return float32 ``values`` scaled to 0..1; all 0 where they are the same."""
    low, high = float(values.min()), float(values.max())
    scale = 1 / (high - low) if high - low > np.finfo(np.float64).eps else 0.0
    return (values * scale - low * scale).astype(np.float32)


def _slope(arrays: _Arrays, values: Any, axis: int) -> Any:
    """Return OpenCV's Sobel along an axis, scaled to units a pixel, in the values' precision."""
    slope, smooth = (taps.ravel() for taps in cv2.getDerivKernels(1, 0, SOBEL_SIZE, ktype=cv2.CV_64F))
    for taps, along in ((slope / 2 ** (SOBEL_SIZE - 2), axis), (smooth / 2 ** (SOBEL_SIZE - 1), 1 - axis)):
        values = arrays.ndimage.correlate1d(values, arrays.xp.asarray(taps), along, mode=_BORDER)
    return values


def _markers(arrays: _Arrays, blobs: Any, is_inner: Any, min_size: int, *, is_split: bool) -> Any:
    """Label the cores of nuclei, (H, W) int32: inner pixels without holes, opened; small ones dropped.

    ``is_split``: a core that filling spread over two blobs, a ring and what it surrounds, is one for each.
    """
    kernel = arrays.xp.asarray(MARKER_KERNEL.astype(bool))
    cores = _fill_holes(arrays, is_inner)
    cores = arrays.ndimage.binary_erosion(cores, kernel, border_value=1)
    cores = arrays.ndimage.binary_dilation(cores, kernel)
    if is_split:
        cores &= blobs != BACKGROUND
    markers, _ = _large_components(arrays, cores, min_size)
    return markers * (blobs != BACKGROUND)


def _fill_holes(arrays: _Arrays, mask: Any) -> Any:
    """Return (H, W) bool with what no 4-connected path outside the mask joins to the border."""
    around, num = arrays.ndimage.label(~mask)
    is_outside = arrays.xp.zeros(num + 1, bool)
    for edge in (around[0], around[-1], around[:, 0], around[:, -1]):
        is_outside[edge] = True
    is_outside[0] = False  # the mask itself
    return ~is_outside[around]


def _grow(arrays: _Arrays, markers: Any, blobs: Any, boundary: Any) -> tuple[Any, int]:
    """Give each pixel of a blob to a marker, (H, W) int32, ids 1…K without gaps; blobs without marker vanish.

    Only blobs with several markers need a watershed: the others belong to their marker whole.
    """
    xp = arrays.xp
    pixels = xp.flatnonzero(markers)
    ids, blob = markers.ravel()[pixels], blobs.ravel()[pixels]
    marker_of = xp.zeros(int(blobs.max()) + 1, np.int32)
    marker_of[blob] = ids
    has_several = xp.zeros(len(marker_of), bool)
    has_several[blob[marker_of[blob] != ids]] = True
    label_map = marker_of[blobs]
    if bool(has_several.any()):
        heights = xp.where(blobs != BACKGROUND, boundary, np.float32(1)).astype(np.float64)
        for axis in (0, 1):
            heights = arrays.ndimage.correlate1d(heights, xp.asarray(BLUR), axis, mode=_BORDER)
        is_shared = has_several[blobs]
        label_map = xp.where(is_shared, flood(xp, heights, markers, is_shared), label_map)
    is_used = xp.bincount(label_map.ravel()) > 0
    is_used[BACKGROUND] = False
    return _renumber(xp, label_map, is_used)


def _describe(xp: ModuleType, label_map: Any, num_nuclei: int, types: Any) -> tuple[np.ndarray, Nuclei]:
    """Measure K nuclei where the maps lie, and return the label map and their table on the host."""
    on_host = _to_host(label_map)
    if num_nuclei == 0:
        return on_host, Nuclei.empty(None if types is None else len(types))
    pixels = xp.flatnonzero(label_map)
    rows = label_map.ravel()[pixels] - 1
    y, x = (along.astype(np.int32) for along in xp.divmod(pixels, label_map.shape[1]))
    areas = xp.bincount(rows, minlength=num_nuclei)
    sums = xp.stack([xp.bincount(rows, along, num_nuclei) for along in (y, x)], axis=1)
    boxes = _to_host(_boxes(xp, rows, (y, x), num_nuclei))
    points, starts = trace_contours(on_host, boxes)
    winners, shares, means = (
        (None, None, None)
        if types is None
        else _types(xp, rows, areas, types.reshape(len(types), -1)[:, pixels])
    )
    return on_host, Nuclei(
        ids=np.arange(1, num_nuclei + 1, dtype=np.int32),
        boxes_yxyx=boxes,
        centroids=_to_host(sums / areas[:, None]),
        contour_points=points,
        contour_starts=starts,
        types=winners,
        type_shares=shares,
        type_probabilities=means,
    )


def _boxes(xp: ModuleType, rows: Any, places: tuple[Any, Any], num_nuclei: int) -> Any:
    """Return (K, 4) int32 half-open boxes of the nuclei that (P,) pixels at (P,) y and x belong to."""
    low, high = [], []
    for along in places:
        low.append(xp.full(num_nuclei, np.iinfo(np.int32).max, np.int32))
        high.append(xp.zeros(num_nuclei, np.int32))
        xp.minimum.at(low[-1], rows, along)
        xp.maximum.at(high[-1], rows, along + 1)
    return xp.stack(low + high, axis=1)


def _types(
    xp: ModuleType, rows: Any, areas: Any, probability: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return types (K,) int32, vote shares (K,) and mean probabilities (K, T) float32.

    Args:
        xp: the module of the arrays.
        rows: (P,) which nucleus each nuclear pixel belongs to, 0…K-1.
        areas: (K,) pixels.
        probability: (T, P) float32.
    """
    num_types, num_nuclei = len(probability), len(areas)
    means = (
        xp.stack([xp.bincount(rows, values, num_nuclei) for values in probability], axis=1) / areas[:, None]
    )
    ballots = rows.astype(np.int64) * num_types + probability.argmax(axis=0)
    votes = _to_host(xp.bincount(ballots, minlength=num_nuclei * num_types)).reshape(num_nuclei, num_types)
    ranked = votes.copy()
    ranked[votes[:, 1:].any(axis=1), BACKGROUND] = -1  # wins only where no pixel says otherwise
    types = ranked.argmax(axis=1)
    shares = votes[np.arange(num_nuclei), types] / _to_host(areas)
    return types.astype(np.int32), shares.astype(np.float32), _to_host(means).astype(np.float32)


def _to_host(array: Any) -> np.ndarray:
    """Return a NumPy or CuPy array as NumPy."""
    return array.get() if hasattr(array, "get") else array
