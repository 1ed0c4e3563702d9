"""Tissue told from glass, dirt and ink by colour, on a low-power picture of a slide; `tissue.py` asks it.

Both stains of H&E absorb green most: haematoxylin lets blue pass, eosin red and blue. So tissue is where red
or blue exceed green; glass, shadow and dust weaken all three alike, and inks leave the hues between the stains.
Colours are compared as differences of optical density, log10 of a ratio, which shadow does not change.
"""

from __future__ import annotations

import cv2
import numpy as np

ASSUMED_MPP = 8.0  # µm to a pixel where it is unknown: an objective of 1.25x, the usual one for tissue masks
SMOOTHING_UM = 4.0  # standard deviation of the blur: less than a nucleus, more than the noise of JPEG
GAP_UM = 16.0  # radius: tissue this near to tissue is one piece
SPECK_UM = 128.0  # side of a square: smaller pieces are dirt
HOLE_UM = 256.0  # side of a square: less than what a network looks at, so that leaving it out saves nothing
MARGIN_UM = 32.0  # added around tissue, whose pale rim the threshold misses; at least 2 px
SPECK_SHARE = 0.01  # of the picture; in one that shows little, smaller pieces count too

# Optical density; Otsu's threshold is held to it, or it would split a picture full of tissue in two.
STAIN_LIMITS = (0.02, 0.035)
GLASS_SHARE = 0.01  # of the picture; what looks like less glass is chance, and its cast unknown
GLASS_LEAST = 180  # grey level that all channels of glass reach
GLASS_CHROMA = 16  # grey levels between glass's channels, at most: the cast of lamp and scanner
GLASS_CAST = 0.02  # the same as optical density, at most
GLASS_RANGE = 6  # grey levels of green within 5 x 5 px of glass, at most; pale tissue has texture
DARK = 65  # grey level that no channel reaches in black ink and outside the scan
DARK_CHROMA = 28  # grey levels between their channels, at most; the darkest folds of tissue are purple
INK_MARGIN = 3  # px around ink, where it blends with glass into the hues of tissue

_DENSITY_STEP = 1e-3  # of the histogram for Otsu's threshold


def find_tissue(overview: np.ndarray, mpp: float | None = None) -> np.ndarray:
    """Return where a slide stained with H&E shows tissue.

    White or black pictures have none; tissue from edge to edge is all kept. Small holes count as tissue, and so
    does a margin of 32 µm; dirt of less than 128 x 128 µm, black borders and pen marks do not.

    Args:
        overview: (h, w, 3) uint8 RGB of the slide, best at 1..20 µm/px.
        mpp: µm to a pixel of the overview; None takes 8.

    Returns:
        (h, w) bool.
    """
    mpp = ASSUMED_MPP if mpp is None else mpp
    if not overview.size:
        return np.zeros(overview.shape[:2], bool)
    smooth = cv2.GaussianBlur(overview, (0, 0), max(1.0, SMOOTHING_UM / mpp))
    speck_area = min((SPECK_UM / mpp) ** 2, SPECK_SHARE * smooth[..., 0].size)
    red, blue = _excess_over_green(smooth)
    ink = _find_ink(smooth, red, blue)
    large_ink = _dilate(_without_small(ink, speck_area), INK_MARGIN)
    stain = np.where(ink | large_ink, 0, np.maximum(red, blue))
    tissue = stain > _stain_threshold(stain[~ink])
    tissue = _without_small(_close(tissue, max(GAP_UM / mpp, 1)), speck_area)
    if not tissue.any():
        return tissue  # where all is glass, none of it is a hole
    tissue = ~_without_small(~tissue, (HOLE_UM / mpp) ** 2, connectivity=4)
    return _dilate(tissue, max(MARGIN_UM / mpp, 2)) & ~large_ink


def _excess_over_green(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how much more red, and blue, than green there is, (h, w) float32, as optical density; glass has 0."""
    density = -np.log10((rgb.astype(np.float32) + 1) / 256)
    red, blue = density[..., 1] - density[..., 0], density[..., 1] - density[..., 2]
    lowest, highest = rgb.min(2), rgb.max(2)
    glass = (lowest >= GLASS_LEAST) & (highest - lowest <= GLASS_CHROMA)
    window = np.ones((5, 5), np.uint8)
    glass &= cv2.morphologyEx(np.ascontiguousarray(rgb[..., 1]), cv2.MORPH_GRADIENT, window) <= GLASS_RANGE
    glass = cv2.erode(glass.astype(np.uint8), window).astype(bool)
    if glass.mean() < GLASS_SHARE:
        return red, blue
    glass &= rgb[..., 1] >= np.median(rgb[..., 1][glass])  # pale tissue is darker than the glass beside it
    cast = [float(np.clip(np.median(excess[glass]), -GLASS_CAST, GLASS_CAST)) for excess in (red, blue)]
    return red - cast[0], blue - cast[1]


def _find_ink(rgb: np.ndarray, red: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Return (h, w) bool of what is black, or of a hue that H&E has not, with the paler ink around it.

    The bounds, in optical density, leave room for haematoxylin as blue as (110, 115, 185) and for eosin and
    blood, whose blue exceeds their green.
    """
    towards_blue = 0.1 * np.maximum(blue, 0)
    cold = _grow(red < -0.03 - towards_blue, red < -0.01 - towards_blue)  # green, cyan, blue
    is_warm = blue < 0.3 * red
    warm = _grow(is_warm & ((red > 0.5) | (blue < -0.35)), is_warm & (red > 0.06))  # red, orange, yellow
    highest = rgb.max(2)
    black = (highest < DARK) & (highest - rgb.min(2) < DARK_CHROMA)
    return cold | warm | black


def _stain_threshold(stain: np.ndarray) -> float:
    """Return the optical density above which (n,) pixels are stained: Otsu's, within ``STAIN_LIMITS``."""
    if not stain.size:
        return STAIN_LIMITS[1]
    steps = np.clip(stain / _DENSITY_STEP, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(steps.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(np.clip(threshold * _DENSITY_STEP, *STAIN_LIMITS))


def _grow(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the pieces of (h, w) bool ``mask`` that hold a seed; seeds lie within it."""
    _, pieces = cv2.connectedComponents((mask | seeds).astype(np.uint8), connectivity=8)
    has_seed = np.zeros(pieces.max() + 1, bool)
    has_seed[pieces[seeds]] = True
    return has_seed[pieces]


def _without_small(mask: np.ndarray, least_area: float, *, connectivity: int = 8) -> np.ndarray:
    """Return (h, w) bool ``mask`` without pieces of less than ``least_area`` px²."""
    _, pieces, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    is_kept = facts[:, cv2.CC_STAT_AREA] >= least_area
    is_kept[0] = False
    return is_kept[pieces]


def _close(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return (h, w) bool ``mask`` with gaps of up to twice ``radius`` px closed; nothing grows at the border."""
    return ~_dilate(~_dilate(mask, radius), radius)


def _dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return (h, w) bool of all that lies within ``radius`` px of ``mask``."""
    if not mask.any():
        return mask
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= radius
