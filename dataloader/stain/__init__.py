"""Stains: fitted once per image or slide, normalised to a target, pulled apart, jittered; NumPy, CuPy and torch."""

from dataloader.stain.deconvolution import hed2rgb, rgb2hed
from dataloader.stain.jitter import HedJitter
from dataloader.stain.macenko import MacenkoNormalizer
from dataloader.stain.reinhard import ReinhardNormalizer
from dataloader.stain.statistics import PUBLISHED_TARGET, StainStatistics
from dataloader.stain.vahadane import VahadaneNormalizer

NORMALIZERS = {
    "macenko": MacenkoNormalizer,
    "vahadane": VahadaneNormalizer,
    "reinhard": ReinhardNormalizer,
}
"""The methods by name; each has ``estimate``, ``fit`` and ``transform``."""

__all__ = [
    "NORMALIZERS",
    "PUBLISHED_TARGET",
    "HedJitter",
    "MacenkoNormalizer",
    "ReinhardNormalizer",
    "StainStatistics",
    "VahadaneNormalizer",
    "hed2rgb",
    "rgb2hed",
]
