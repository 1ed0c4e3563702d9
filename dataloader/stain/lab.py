"""RGB to CIE L*a*b* and back, in which Reinhard's method works; NumPy, CuPy or torch.

sRGB with its white point, D65 as seen by the 2 degree observer (IEC 61966-2-1; CIE 15). Channels are separate
arrays, so that no matrix product, which torch may run in TF32, is needed.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

WHITE = np.array([0.95047, 1.0, 1.08883])
RGB_TO_XYZ = (
    np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    / WHITE[:, None]
)
"""(3, 3) from linear RGB in 0..1 to X, Y, Z, each as a share of the white's."""
XYZ_TO_RGB = np.linalg.inv(RGB_TO_XYZ)

ROOT_FROM = 0.008856  # below it the cube root is replaced by a line
SLOPE, START = 7.787, 16 / 116
ENCODED_FROM = 0.0031308

_encoded = np.arange(256) / 255
LINEAR = np.where(_encoded > 0.04045, ((_encoded + 0.055) / 1.055) ** 2.4, _encoded / 12.92).astype(
    np.float32
)
"""(256,) float32 linear intensities, 0..1, of the grey levels."""


def rgb_to_lab(linear: Any, xp: ModuleType) -> list[Any]:
    """Return L* in 0..100, a* and b* of three arrays of linear red, green and blue in 0..1."""
    x, y, z = (_root(sum_of(row, linear), xp) for row in RGB_TO_XYZ)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def lab_to_rgb(lab: Any, xp: ModuleType) -> list[Any]:
    """Return grey levels of red, green and blue, not rounded, of three arrays L*, a*, b*; may leave 0..255."""
    y = (lab[0] + 16) / 116
    x, z = y + lab[1] / 500, y - lab[2] / 200
    shares = [_cube(part, xp) for part in (x, y, z)]
    return [255 * _encode(sum_of(row, shares), xp) for row in XYZ_TO_RGB]


def sum_of(weights: Any, channels: Any) -> Any:
    """Return the weighted sum of three arrays."""
    return sum(float(weight) * channel for weight, channel in zip(weights, channels, strict=True))


def _root(share: Any, xp: ModuleType) -> Any:
    """Return the cube root, or near 0 the line that goes on from it."""
    return xp.where(share > ROOT_FROM, share.clip(min=ROOT_FROM) ** (1 / 3), SLOPE * share + START)


def _cube(root: Any, xp: ModuleType) -> Any:
    """Invert :func:`_root`."""
    return xp.where(root > ROOT_FROM ** (1 / 3), root**3, (root - START) / SLOPE)


def _encode(linear: Any, xp: ModuleType) -> Any:
    """Return sRGB in 0..1 of linear intensities; what is negative stays so."""
    curve = 1.055 * linear.clip(min=ENCODED_FROM) ** (1 / 2.4) - 0.055
    return xp.where(linear > ENCODED_FROM, curve, 12.92 * linear)
