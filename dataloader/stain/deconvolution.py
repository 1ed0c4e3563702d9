"""Fixed-matrix colour deconvolution (Ruifrok and Johnston 2001): RGB to haematoxylin, eosin, DAB and back."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch

from dataloader.stain.apply import BLOCK_PIXELS
from dataloader.stain.arrays import look_up_tensor, namespace_of

RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""(3, 3) optical densities; rows haematoxylin, eosin, DAB, columns R, G, B."""
HED_FROM_RGB = np.linalg.inv(RGB_FROM_HED)
SMALLEST = 1e-6
"""Intensity, 0..1, that black counts as; its optical density is the unit of concentration."""

_UNIT = -math.log(SMALLEST)
_TABLE = (-np.log(np.maximum(np.arange(256) / 255, SMALLEST)) / _UNIT).astype(np.float32)


def rgb2hed(rgb: Any) -> Any:
    """Return the concentrations of haematoxylin, eosin and DAB, none below 0; equal to scikit-image's to 1e-5.

    Args:
        rgb: (…, 3) uint8 in 0..255 or float in 0..1; NumPy, CuPy or torch, channels last for all.

    Returns:
        (…, 3) of the same kind; float64 for float64, else float32.

    Raises:
        ValueError: if the last axis is not RGB, or the dtype another integer.
    """
    xp = _check(rgb)
    if rgb.dtype == xp.uint8:
        return _rgb2hed_bytes(rgb, xp)
    density = xp.log(rgb.clip(min=SMALLEST)) / -_UNIT
    return (density @ _matrix(HED_FROM_RGB, rgb, xp)).clip(min=0)


def hed2rgb(hed: Any) -> Any:
    """Return RGB in 0..1 of concentrations of haematoxylin, eosin and DAB; equal to scikit-image's to 1e-5.

    Args:
        hed: (…, 3) float; NumPy, CuPy or torch, channels last for all.

    Returns:
        (…, 3) of the same kind and dtype.

    Raises:
        ValueError: if the last axis is not HED, or the dtype an integer.
    """
    xp = _check(hed)
    if hed.dtype == xp.uint8:
        raise ValueError(f"concentrations of dtype {hed.dtype} must be float; pass what rgb2hed gives")
    return xp.exp(hed @ _matrix(-_UNIT * RGB_FROM_HED, hed, xp)).clip(0, 1)


def _rgb2hed_bytes(rgb: Any, xp: Any) -> Any:
    """Return float32 (…, 3) for uint8: by a table, and for NumPy in blocks that stay in the cache."""
    if xp is not np:
        density = look_up_tensor(_TABLE, rgb) if xp is torch else xp.asarray(_TABLE)[rgb]
        return (density @ _matrix(HED_FROM_RGB, density, xp)).clip(min=0)
    pixels = np.ascontiguousarray(rgb).reshape(-1, 1, 3)
    result = np.empty(pixels.shape, np.float32)
    for start in range(0, len(pixels), BLOCK_PIXELS):
        rows = slice(start, start + BLOCK_PIXELS)
        values = cv2.transform(cv2.LUT(pixels[rows], _TABLE), HED_FROM_RGB.T.astype(np.float32))
        np.maximum(values, 0, out=result[rows])
    return result.reshape(rgb.shape)


def _check(values: Any) -> Any:
    """Return the module of ``values`` after checking shape and dtype."""
    xp = namespace_of(values)
    if not values.ndim or values.shape[-1] != 3:
        raise ValueError(f"values of shape {tuple(values.shape)} must be (…, 3); move the channels last")
    if values.dtype not in (xp.uint8, xp.float32, xp.float64):
        raise ValueError(f"values of dtype {values.dtype} must be uint8, float32 or float64; convert them")
    return xp


def _matrix(matrix: np.ndarray, like: Any, xp: Any) -> Any:
    """Return ``matrix`` in the kind, dtype and device of ``like``."""
    if xp is torch:
        return torch.from_numpy(np.asarray(matrix)).to(like)
    return xp.asarray(matrix, like.dtype)
