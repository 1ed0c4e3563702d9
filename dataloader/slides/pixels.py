"""Decoded samples of any supported kind as 8-bit RGB; the readers of ordinary images and of TIFF share it."""

from __future__ import annotations

import numpy as np

WHITE = 255  # full scale; also what lies outside a slide: the empty glass


def as_rgb(samples: np.ndarray, *, is_premultiplied: bool = False) -> np.ndarray:
    """Return samples as RGB: 16 bits scaled to 8, grey repeated, transparency laid on white.

    Args:
        samples: (h, w) or (h, w, 1) grey, (h, w, 2) grey and alpha, (h, w, 3) RGB or (h, w, 4) RGB and alpha;
            uint8 in 0..255, uint16 in 0..65535 or bool.
        is_premultiplied: colours are already multiplied by alpha.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        ValueError: another dtype or number of channels.
    """
    samples = _as_uint8(samples)
    if samples.ndim == 2:
        samples = samples[..., None]
    channels = samples.shape[2]
    if channels == 3:
        return samples
    if channels not in (1, 2, 4):
        raise ValueError(f"{channels} channels are not an RGB image; 1 to 4 are")
    colour = samples[..., : 1 if channels < 3 else 3]
    if channels in (2, 4):
        colour = _on_white(colour, samples[..., -1:], is_premultiplied)
    return np.repeat(colour, 3, axis=2) if channels < 3 else colour


def _as_uint8(samples: np.ndarray) -> np.ndarray:
    """Scale samples to 8 bits, to the nearest."""
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype == bool:
        return samples.astype(np.uint8) * WHITE
    if samples.dtype == np.uint16:
        return ((samples.astype(np.uint32) * WHITE + 32767) // 65535).astype(np.uint8)
    raise ValueError(f"samples of type {samples.dtype} are not an image's; 8 and 16 bits without sign are")


def _on_white(colour: np.ndarray, alpha: np.ndarray, is_premultiplied: bool) -> np.ndarray:
    """Lay (h, w, C) uint8 colours with (h, w, 1) uint8 opacity on white, to the nearest."""
    opacity = alpha.astype(np.uint32)
    weighted = colour.astype(np.uint32) * (WHITE if is_premultiplied else opacity)
    mixed = (weighted + (WHITE - opacity) * WHITE + WHITE // 2) // WHITE
    return np.minimum(mixed, WHITE).astype(np.uint8)
