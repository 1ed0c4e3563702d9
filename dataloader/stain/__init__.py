"""Stains: fitted once per image or slide, normalised to a target, pulled apart, jittered; NumPy, CuPy and torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dataloader.stain.deconvolution import hed2rgb, rgb2hed
from dataloader.stain.jitter import HedJitter
from dataloader.stain.macenko import MacenkoNormalizer
from dataloader.stain.reinhard import ReinhardNormalizer
from dataloader.stain.statistics import PUBLISHED_TARGET, StainStatistics
from dataloader.stain.vahadane import VahadaneNormalizer


class Normalizer(Protocol):
    """A method of stain normalisation.

    Attributes:
        method: its name, a row of ``NORMALIZERS``.
        target: the stain that images are brought to.
    """

    method: str
    target: StainStatistics

    def estimate(self, images: Any) -> StainStatistics:
        """Return the stain of an image, or of tissue pixels of a slide; see ``MacenkoNormalizer.estimate``."""

    def transform(
        self, images: Any, source: StainStatistics | Sequence[StainStatistics] | None = None
    ) -> Any:
        """Return images in the target's stain; see ``MacenkoNormalizer.transform``."""


NORMALIZERS: dict[str, Any] = {
    "macenko": MacenkoNormalizer,
    "vahadane": VahadaneNormalizer,
    "reinhard": ReinhardNormalizer,
}
"""The methods by name; each has ``estimate``, ``fit`` and ``transform``."""


def make_normalizer(method: str, target: Any = None) -> Normalizer:
    """Return a normaliser by name.

    Args:
        method: a row of ``NORMALIZERS``.
        target: statistics, a JSON file of them, or an image; None takes the method's default.

    Raises:
        ValueError: if the method is unknown, or ``target`` does not suit it.
    """
    if method not in NORMALIZERS:
        raise ValueError(f"method '{method}' is unknown; choose one of {', '.join(NORMALIZERS)}")
    return NORMALIZERS[method]() if target is None else NORMALIZERS[method](target)


def estimate_stains(image: Any) -> dict[str, StainStatistics]:
    """Return the statistics of an image by every method, by its name; see ``MacenkoNormalizer.estimate``."""
    return {method: make_normalizer(method).estimate(image) for method in NORMALIZERS}


__all__ = [
    "NORMALIZERS",
    "PUBLISHED_TARGET",
    "HedJitter",
    "MacenkoNormalizer",
    "Normalizer",
    "ReinhardNormalizer",
    "StainStatistics",
    "VahadaneNormalizer",
    "estimate_stains",
    "hed2rgb",
    "make_normalizer",
    "rgb2hed",
]
