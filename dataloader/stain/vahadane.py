"""Vahadane's stain normalisation: the two stains that explain the densities with the fewest of them in a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataloader.stain.apply import recolour
from dataloader.stain.arrays import namespace_of, to_host
from dataloader.stain.density import MIN_RED_GAP, ROBUST, mixing_matrices, statistics_of, tissue_densities
from dataloader.stain.mixing import DensityMixing
from dataloader.stain.sources import as_sources, resolve_target
from dataloader.stain.statistics import PUBLISHED_TARGET, StainStatistics

SPARSITY = 0.1
"""Weight of the sum of concentrations against half the squared error, in units of optical density."""
MAX_ROUNDS, TOLERANCE = 200, 1e-5
"""Of alternating concentrations and stains; ends when no entry of the stain matrix moves by more."""
START = np.array([[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]])
"""(3, 2) haematoxylin and eosin from which the rounds start (Ruifrok and Johnston 2001)."""


class VahadaneNormalizer:
    """Normalise H&E to a target stain found by sparse non-negative factorisation (Vahadane et al. 2016).

    The stains are found with sparse concentrations; these are then applied by least squares, so that, as for
    Macenko, source to target is one 3 x 3 matrix.

    Args:
        target: statistics, an image to fit them on, or a JSON file of them; by default the published stain.
        max_pixels: how many pixels a fit looks at, evenly spread; None takes all.

    Raises:
        ValueError: if ``target`` holds no stain matrix.
    """

    method = "vahadane"

    def __init__(self, target: Any = PUBLISHED_TARGET, *, max_pixels: int | None = 2**17) -> None:
        self.max_pixels = max_pixels
        self.source: StainStatistics | None = None
        self.target = resolve_target(target, self.estimate)
        mixing_matrices([self.target], self.target)

    def estimate(self, images: Any) -> StainStatistics:
        """Return the stain of an image, or of tissue pixels of a slide; nothing is kept.

        Takes and refuses what ``MacenkoNormalizer.estimate`` does; too little tissue gives the identity likewise.
        """
        densities = tissue_densities(images, ROBUST, self.max_pixels)
        if isinstance(densities, StainStatistics):
            return densities
        stain_matrix = factorise(densities[0])
        return statistics_of(
            "vahadane", stain_matrix, densities[1], ROBUST.intensity, min_red_gap=MIN_RED_GAP
        )

    def fit(self, images: Any) -> VahadaneNormalizer:
        """Keep the stain of an image or slide as the one that :meth:`transform` starts from."""
        self.source = self.estimate(images)
        return self

    def transform(
        self, images: Any, source: StainStatistics | Sequence[StainStatistics] | None = None
    ) -> Any:
        """Return images in the target's stain; arguments, result and errors as of ``MacenkoNormalizer.transform``."""
        matrices = mixing_matrices(as_sources(source, self.source), self.target)
        return recolour(images, DensityMixing(matrices, ROBUST.table(), ROBUST.intensity, fades=ROBUST.fades))


def factorise(density: Any, sparsity: float = SPARSITY) -> np.ndarray:
    """Return the (3, 2) stain matrix, non-negative, unit columns, haematoxylin (more red) first.

    Alternates the exact concentrations for the stains with one step of block coordinate descent on the stains
    (Mairal et al. 2010), which needs of the pixels only two small sums.

    Args:
        density: (P, 3) float32 NumPy or CuPy optical densities.
        sparsity: weight of the sum of concentrations.
    """
    xp = namespace_of(density)
    transposed = xp.ascontiguousarray(density.T)  # (3, P)
    stains = START / np.linalg.norm(START, axis=0)
    for _ in range(MAX_ROUNDS):
        concentrations = sparse_concentrations(transposed, stains, sparsity)
        gram = to_host(concentrations @ concentrations.T)  # (2, 2)
        cross = to_host(transposed @ concentrations.T)  # (3, 2)
        before = stains.copy()
        for stain in range(2):
            if gram[stain, stain] > 0:
                step = (cross[:, stain] - stains @ gram[:, stain]) / gram[stain, stain]
                moved = np.maximum(stains[:, stain] + step, 0)
                if moved.any():
                    stains[:, stain] = moved / np.linalg.norm(moved)
        if np.abs(stains - before).max() < TOLERANCE:
            break
    return stains if stains[0, 0] > stains[0, 1] else stains[:, ::-1].copy()


def sparse_concentrations(density: Any, stains: np.ndarray, sparsity: float) -> Any:
    """Return (2, P) non-negative c with least ``|d - S c|^2 / 2 + sparsity sum(c)`` for every pixel d.

    With two stains the solution is known: both where both come out positive, else the better one alone.

    Args:
        density: (3, P) float32 NumPy or CuPy.
        stains: (3, 2) float64, unit columns.
        sparsity: weight of the sum.
    """
    xp = namespace_of(density)
    fit = xp.asarray(stains.T.astype(np.float32)) @ density - np.float32(sparsity)  # (2, P)
    overlap = float(stains[:, 0] @ stains[:, 1])
    alone = fit.clip(min=0)
    both = (fit - np.float32(overlap) * fit[::-1]) / np.float32(max(1 - overlap**2, 1e-6))
    only_first = alone[0] >= alone[1]
    single = xp.stack([alone[0] * only_first, alone[1] * ~only_first])
    return xp.where((both > 0).all(0), both, single)
