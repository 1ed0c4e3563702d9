"""Optical density, the pixels that count as tissue, and a fitted stain matrix from them; under Macenko and Vahadane."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dataloader.stain.arrays import average_blocks, namespace_of, sample_pixels, to_host
from dataloader.stain.statistics import IDENTITY, StainStatistics

MIN_TISSUE_PIXELS = 256
"""A square of 16 px: of fewer pixels no percentile is worth its name."""
MIN_ANGLE_DEGREES = 3.0
"""Between the two stain vectors; haematoxylin and eosin are 15 to 40 degrees apart, noise of one stain is less."""
MIN_RED_GAP = 0.05
"""By which haematoxylin absorbs more red than eosin, in unit vectors; below it nothing tells the two apart."""
MIN_GREY_ANGLE_DEGREES = 5.0
"""Between the mean density of H&E and equal densities; haematoxylin and eosin are 15 to 30 degrees from grey."""
MIN_CONCENTRATION = 0.05
"""Of either stain; a stain that is not there cannot be scaled."""
MAX_PERCENTILE = 99
"""Of a stain's concentrations; stands for the maximum and is not moved by a few dark specks."""

BETA = 0.15 * math.log(10)
"""Optical density below which Macenko et al. see background: their 0.15, which is decadic, as natural logarithm."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """How optical density is measured, and on which pixels a stain is fitted.

    Attributes:
        intensity: grey level of no absorption.
        offset: grey levels added before the logarithm.
        is_capped: whether brighter pixels count as ``intensity``; else their density is negative.
        floor: grey level that darker ones are taken for: there a camera clips, and its noise is no stain.
        threshold: optical density (natural logarithm) that tells tissue from background.
        needs_all: whether all three channels must exceed it, or any.
        takes_equal: whether the threshold itself is tissue.
        black_below: grey level that the lightest channel of tissue reaches; what is darker is no stain but ink,
            pigment or the black that scanners put beside a slide.
        smooths: whether stain vectors are fitted on means over some pixels, which leave out their noise, and the
            maximal concentrations are the tissue's, not those of all pixels.
        only_positive: whether stain vectors are held to 0 and above.
        fades: whether background keeps its colour, and near it the change fades out.
    """

    intensity: float = 255.0
    offset: float = 0.0
    is_capped: bool = True
    floor: int = 8
    threshold: float = BETA
    needs_all: bool = False
    takes_equal: bool = False
    black_below: int = 40
    smooths: bool = True
    only_positive: bool = True
    fades: bool = True

    def table(self) -> np.ndarray:
        """Return (256,) float32 optical densities of the grey levels."""
        levels = np.maximum(np.arange(256) + self.offset, max(self.floor, 1))
        if self.is_capped:
            levels = np.minimum(levels, self.intensity)
        return (-np.log(levels / self.intensity)).astype(np.float32)

    def find_tissue(self, pixels: Any) -> Any:
        """Return (P,) bool for (P, 3) uint8 NumPy or CuPy pixels."""
        table = self.table()
        is_dark = table >= self.threshold if self.takes_equal else table > self.threshold
        darkest = 255 if is_dark.all() else int(np.argmin(is_dark)) - 1  # densities fall with the grey level
        xp = namespace_of(pixels)
        extreme = xp.maximum if self.needs_all else xp.minimum
        level = extreme(extreme(pixels[:, 0], pixels[:, 1]), pixels[:, 2])
        is_tissue = level.astype(np.int16) <= darkest
        if self.black_below:
            lightest = xp.maximum(xp.maximum(pixels[:, 0], pixels[:, 1]), pixels[:, 2])
            is_tissue &= lightest >= self.black_below
        return is_tissue


ROBUST = Variant()
_FULL: dict[str, Any] = {
    "floor": 1,
    "black_below": 0,
    "smooths": False,
    "only_positive": False,
    "fades": False,
}
VARIANTS = {
    "robust": ROBUST,
    "monai": Variant(240, 1, threshold=0.15, needs_all=True, **_FULL),
    "torchstain": Variant(240, 1, is_capped=False, threshold=0.15, needs_all=True, takes_equal=True, **_FULL),
    "cucim": Variant(240, 0, **_FULL),
}
"""``robust``, the default, and the arithmetic of three peers.

Any channel above the threshold makes tissue: eosin hardly absorbs red, so that "all channels" drops pale eosin and
turns its vector towards haematoxylin. A threshold as low as 0.15 lets the noise of pale pixels open the fan instead.
The stains are fitted on means over 8 x 8 px, 2 µm at 40x: of single pixels the second direction of the densities is
often the camera's blue-green noise, and both stains then come out alike (in 12 of 36 of CoNSeP's). The maximal
concentrations are the pixels', and the tissue's alone: they do not depend on how much glass lies beside it. Glass keeps
its colour.
"""


def tissue_densities(
    images: Any, variant: Variant, max_pixels: int | None
) -> tuple[Any, Any] | StainStatistics:
    """Return the densities that a stain is fitted on, or the identity, with a warning, where there is too little.

    Args:
        images: as ``MacenkoNormalizer.estimate`` takes them.
        variant: what counts as tissue, and whether vectors are fitted on means.
        max_pixels: how many pixels are looked at; None for all.

    Returns:
        (P, 3) float32 for the stain vectors and (Q, 3) for the maximal concentrations, NumPy or CuPy.
    """
    pixels = sample_pixels(images, max_pixels)
    is_tissue = variant.find_tissue(pixels)
    tissue = pixels[is_tissue]
    if identity := too_little(len(tissue)):
        return identity
    table = variant.table()
    if not variant.smooths:
        return look_up(table, tissue), look_up(table, pixels)
    xp = namespace_of(tissue)
    darkest = xp.minimum(xp.minimum(tissue[:, 0], tissue[:, 1]), tissue[:, 2])
    # Of a clipped pixel nobody knows how much more stain there was than black shows.
    measured = tissue[darkest >= variant.floor]
    concentrated = look_up(table, measured if len(measured) >= MIN_TISSUE_PIXELS else tissue)
    means = sample_pixels(average_blocks(images), max_pixels)
    means = means[variant.find_tissue(means)]
    if identity := too_little(len(means)):
        return identity
    density = look_up(table, means)
    mean = to_host(density.mean(0, dtype=np.float64))
    from_grey = np.degrees(np.arccos(np.clip(mean.sum() / np.linalg.norm(mean) / math.sqrt(3), -1, 1)))
    if from_grey < MIN_GREY_ANGLE_DEGREES:
        return give_up(
            f"the mean density is {from_grey:.1f} degrees from grey, {MIN_GREY_ANGLE_DEGREES:g} are needed"
        )
    return density, concentrated


def statistics_of(
    method: str, stain_matrix: np.ndarray, density: Any, intensity: float, *, min_red_gap: float = 0.0
) -> StainStatistics:
    """Return the statistics of a fitted stain, or the identity, with a warning, where it is degenerate.

    Args:
        method: its name.
        stain_matrix: (3, 2) float, unit columns haematoxylin and eosin.
        density: (P, 3) float32 NumPy or CuPy optical densities that the maximal concentrations are of.
        intensity: grey level of no absorption.
        min_red_gap: by which haematoxylin must absorb more red.
    """
    if stain_matrix[0, 0] - stain_matrix[0, 1] < min_red_gap:
        return give_up(
            f"the stains absorb red alike, {stain_matrix[0].round(2)}: nothing tells which is which"
        )
    cosine = float(stain_matrix[:, 0] @ stain_matrix[:, 1])
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    if not angle >= MIN_ANGLE_DEGREES:
        return give_up(
            f"the stains are {angle:.1f} degrees apart, {MIN_ANGLE_DEGREES:g} are needed: one colour, or grey"
        )
    xp = namespace_of(density)
    unmix = xp.asarray(np.linalg.pinv(stain_matrix).T.astype(np.float32))
    concentrations = unmix.T @ density.T  # (2, P): each stain in one run of memory
    highest = np.array([float(xp.percentile(stain, MAX_PERCENTILE)) for stain in concentrations])
    if not highest.min() >= MIN_CONCENTRATION:
        return give_up(
            f"the maximal concentrations are {highest.round(3)}, {MIN_CONCENTRATION} is needed of each: one stain"
        )
    return StainStatistics(method, _tuples(stain_matrix), (highest[0], highest[1]), intensity=intensity)


def give_up(why: str) -> StainStatistics:
    """Return the identity, and log why."""
    _log.warning("no stain is fitted, the colours stay as they are: %s", why)
    return StainStatistics(IDENTITY)


def too_little(num_pixels: int) -> StainStatistics | None:
    """Return the identity, with a warning, where fewer pixels than needed show tissue; else None."""
    if num_pixels >= MIN_TISSUE_PIXELS:
        return None
    return give_up(f"{num_pixels} pixels show tissue, {MIN_TISSUE_PIXELS} are needed")


def look_up(table: np.ndarray, pixels: Any) -> Any:
    """Return (P, 3) float32 values of (P, 3) uint8 NumPy or CuPy; OpenCV is faster at it than NumPy's indexing."""
    xp = namespace_of(pixels)
    if xp is not np:
        return xp.asarray(table)[pixels]
    return cv2.LUT(pixels[:, None], table)[:, 0] if len(pixels) else np.zeros(pixels.shape, np.float32)


def mean_and_covariance(density: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (3,) mean and (3, 3) covariance, float64 NumPy, of (P, 3) float32 NumPy or CuPy."""
    mean = density.mean(0, dtype=np.float64)
    centred = density - mean.astype(np.float32)
    return to_host(mean), to_host(centred.T @ centred) / max(len(density) - 1, 1)


def mixing_matrices(sources: Sequence[StainStatistics], target: StainStatistics) -> np.ndarray:
    """Return (K, 3, 3) float32 that turn the optical densities of each source into the target's.

    Unmixing, scaling and mixing are one product: ``T diag(c_T / c_S) pinv(S)``; the identity where either is one.

    Raises:
        ValueError: if statistics hold no stain matrix.
    """
    return np.stack([_mixing_matrix(source, target) for source in sources]).astype(np.float32)


def _mixing_matrix(source: StainStatistics, target: StainStatistics) -> np.ndarray:
    """Return the (3, 3) matrix of one source."""
    if source.is_identity or target.is_identity:
        return np.eye(3)
    for statistics in (source, target):
        if statistics.stain_matrix is None:
            raise ValueError(
                f"statistics of '{statistics.method}' hold no stain matrix; fit with macenko or vahadane"
            )
    scale = np.asarray(target.max_concentrations) / np.asarray(source.max_concentrations)
    return np.asarray(target.stain_matrix) * scale @ np.linalg.pinv(np.asarray(source.stain_matrix))


def _tuples(matrix: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Return (3, 2) as tuples."""
    return tuple((float(row[0]), float(row[1])) for row in matrix)
