"""Macenko's stain normalisation: the two stains are the edges of the fan of optical densities in its main plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataloader.stain.apply import recolour
from dataloader.stain.arrays import namespace_of, to_host
from dataloader.stain.density import (
    MIN_RED_GAP,
    VARIANTS,
    mean_and_covariance,
    mixing_matrices,
    statistics_of,
    tissue_densities,
)
from dataloader.stain.mixing import DensityMixing
from dataloader.stain.sources import as_sources, resolve_target
from dataloader.stain.statistics import PUBLISHED_TARGET, StainStatistics

EDGE_PERCENTILE = 1.0
"""Of the angles at either edge of the fan; Macenko's alpha."""


class MacenkoNormalizer:
    """Normalise H&E to a target stain (Macenko et al. 2009).

    Args:
        target: statistics, an image to fit them on, or a JSON file of them; by default the published stain.
        variant: "robust", or "monai", "torchstain", "cucim" for the arithmetic of these (they round down where we
            round, and turn white into 240 or so).
        max_pixels: how many pixels a fit looks at, evenly spread; None takes all.

    Raises:
        ValueError: if the variant is unknown, or ``target`` holds no stain matrix.
    """

    method = "macenko"

    def __init__(
        self, target: Any = PUBLISHED_TARGET, *, variant: str = "robust", max_pixels: int | None = 2**20
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant '{variant}' is unknown; choose one of {', '.join(VARIANTS)}")
        self.variant = VARIANTS[variant]
        self.max_pixels = max_pixels
        self.source: StainStatistics | None = None
        self.target = resolve_target(target, self.estimate)
        mixing_matrices([self.target], self.target)

    def estimate(self, images: Any) -> StainStatistics:
        """Return the stain of an image, or of the tissue pixels of a slide; nothing is kept.

        Background and black are left out. The vectors are fitted on means over small blocks, for which images have to
        be given as such: (P, 3) pixels have no neighbours. Too little tissue, or one colour only, gives the identity,
        and a warning.

        Args:
            images: (H, W, 3), (N, H, W, 3) or (P, 3) NumPy or CuPy; (3, H, W), (N, 3, H, W) or (P, 3) torch; RGB in
                0..255, uint8 or float.

        Raises:
            ValueError: if it is no RGB, holds NaN, or is scaled to 0..1.
        """
        densities = tissue_densities(images, self.variant, self.max_pixels)
        if isinstance(densities, StainStatistics):
            return densities
        stain_matrix = find_edges(densities[0])
        if self.variant.only_positive:
            stain_matrix = np.maximum(stain_matrix, 0)
            stain_matrix /= np.linalg.norm(stain_matrix, axis=0)
        gap = MIN_RED_GAP if self.variant.smooths else 0.0
        return statistics_of("macenko", stain_matrix, densities[1], self.variant.intensity, min_red_gap=gap)

    def fit(self, images: Any) -> MacenkoNormalizer:
        """Keep the stain of an image or slide as the one that :meth:`transform` starts from; see :meth:`estimate`."""
        self.source = self.estimate(images)
        return self

    def transform(
        self, images: Any, source: StainStatistics | Sequence[StainStatistics] | None = None
    ) -> Any:
        """Return images in the target's stain; those whose source is the identity come back as they are.

        Args:
            images: (H, W, 3) or (N, H, W, 3) NumPy or CuPy, (3, H, W) or (N, 3, H, W) torch in any memory format;
                uint8, or floats in 0..255, which are rounded.
            source: what is known of their stain, one for all or one each; by default what was fitted.

        Returns:
            uint8 of the kind, shape and memory format of ``images``.

        Raises:
            ValueError: if nothing was fitted, the numbers do not match, or ``images`` are no RGB in 0..255.
        """
        matrices = mixing_matrices(as_sources(source, self.source), self.target)
        variant = self.variant
        mixing = DensityMixing(matrices, variant.table(), variant.intensity, fades=variant.fades)
        return recolour(images, mixing)


def find_edges(density: Any) -> np.ndarray:
    """Return the (3, 2) stain matrix of tissue, unit columns; haematoxylin, which absorbs more red, first.

    Args:
        density: (P, 3) float32 NumPy or CuPy optical densities, P at least 1.
    """
    xp = namespace_of(density)
    mean, covariance = mean_and_covariance(density)
    plane = np.linalg.eigh(covariance)[1][:, [2, 1]]  # (3, 2): the main direction first
    plane *= np.where(mean @ plane < 0, -1, 1)  # the fan opens around angle 0, far from where angles wrap
    along, across = xp.asarray(plane.T.astype(np.float32)) @ density.T
    angles = xp.arctan2(across, along)
    edges = to_host(xp.percentile(angles, xp.asarray([EDGE_PERCENTILE, 100 - EDGE_PERCENTILE])))
    vectors = plane @ np.stack([np.cos(edges), np.sin(edges)])
    return vectors if vectors[0, 0] > vectors[0, 1] else vectors[:, ::-1].copy()
