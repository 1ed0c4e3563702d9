"""Synthetic H&E for tests: two known stains in known concentrations."""

from __future__ import annotations

import numpy as np

STAINS = np.array([[0.6, 0.2], [0.7, 0.85], [0.38, 0.48]])
STAINS = STAINS / np.linalg.norm(STAINS, axis=0)
"""(3, 2), rows R, G, B, columns haematoxylin, eosin."""
CELL = 8


def stain_image(
    height: int = 96,
    width: int = 120,
    *,
    stains: np.ndarray = STAINS,
    eosin: float = 1.0,
    glass: float = 0.2,
    seed: int = 0,
) -> np.ndarray:
    """Return (H, W, 3) uint8: mixtures, 60 % of one stain alone, under a share of glass, with a little noise.

    ``eosin`` is how strong it is against the usual.
    Squares of ``CELL`` px have one concentration each, as cells have.
    """
    generator = np.random.default_rng(seed)
    shape = (-(-height // CELL), -(-width // CELL))
    concentrations = generator.gamma(2.0, 0.5, (2, *shape)).clip(max=1.8)  # none is black
    kind = generator.random(shape)
    concentrations[0, kind < 0.3] = 0
    concentrations[1, kind > 0.7] = 0
    concentrations[1] *= eosin
    cells = 255 * np.exp(-np.moveaxis(np.tensordot(stains, concentrations, 1), 0, -1))
    cells[generator.random(shape) < glass] = 245
    image = cells.repeat(CELL, 0).repeat(CELL, 1)[:height, :width]
    return np.clip(np.rint(image + generator.normal(0, 1.5, image.shape)), 0, 255).astype(np.uint8)


def degrees_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the angles between the columns of two matrices."""
    cosine = (first * second).sum(0) / np.linalg.norm(first, axis=0) / np.linalg.norm(second, axis=0)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
