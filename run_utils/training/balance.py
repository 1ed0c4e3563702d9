"""Against imbalance: weights of types in the loss, and of patches in the draw, from the pixels of each type."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def balance_types(counts: np.ndarray, method: str) -> np.ndarray:
    """Return the weight of each type in the cross-entropy of types.

    Args:
        counts: (T,) px of each type, background first, not all 0.
        method: a key of ``METHODS``.

    Returns:
        (T,) float64; the mean over pixels is 1, so that one learning rate fits all methods. A type without any
        pixel has the weight of the rarest one that has some: it matters to no pixel.

    Raises:
        ValueError: for an unknown method, or where no type has a pixel.
    """
    if method not in METHODS:
        raise ValueError(f"balance={method!r} is not known; use one of: {', '.join(METHODS)}")
    counts = counts.astype(np.float64)
    if not counts.any():
        raise ValueError("no type has a pixel in the patches, so none can be weighed; set train.balance=none")
    rarest = counts[counts > 0].min()
    weights = 1 / METHODS[method](np.maximum(counts, rarest))
    scale: float = counts.sum() / (weights * counts).sum()
    return weights * scale


def _effective(counts: np.ndarray) -> np.ndarray:
    """Return Cui et al.'s effective numbers (2019, Eq. 2), (1 - beta^n) / (1 - beta) with beta = 1 - 1/N.

    N, for them the volume of possible samples, is the mean count: pixels are so many that the usual beta of .9999
    would take all types for equally frequent. Rare types weigh as with `inverse`, frequent ones all about alike.
    """
    volume = max(float(counts.mean()), 2.0)
    return -np.expm1(counts * np.log1p(-1 / volume)) * volume


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "inverse": lambda counts: counts,
    "sqrt": np.sqrt,
    "effective": _effective,
}


def weigh_patches(type_pixels: np.ndarray, gamma: float) -> np.ndarray:
    """Return how often each patch is to be drawn, up to a factor as CellViT does by its cells (Hörst et al. 2024).

    A type that n_c patches hold has the weight w_c = k / (gamma n_c + (1 - gamma) k), with k = sum of n_c; a patch
    has (1 - gamma) + gamma * sum of w_c over the types that it holds. One that holds none has the least of these.

    Args:
        type_pixels: (P, T) px of each type in each patch, background first, which does not count.
        gamma: 0 draws all alike, 1 by the rarity of the types alone.

    Returns:
        (P,) float64, all above 0.
    """
    is_present = type_pixels[:, 1:] > 0
    num_with = is_present.sum(axis=0)
    total = num_with.sum()
    if total == 0:
        return np.ones(len(type_pixels))
    factors = total / np.maximum(
        gamma * num_with + (1 - gamma) * total, 1
    )  # below 1 only for a type of no patch
    has_any = is_present.any(axis=1)
    weights = (1 - gamma) + gamma * (is_present @ factors)
    return np.where(has_any, weights, weights[has_any].min())
