"""How an image or slide is cut up, decoded and worked on at once; `build.py` makes it from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

CPU_WINDOW = 1024  # px; larger ones gain little and take memory: a side of 1024 needs 3 GiB with `fast`
GPU_WINDOW = 2048


class DecodeOptions(TypedDict, total=False):
    """Keyword arguments of `decode`; those left out keep its defaults."""

    normalisation: str
    nuclei_threshold: float
    marker_threshold: float
    min_size: int
    gradient_range: tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """How an image is cut up and decoded.

    Attributes:
        window: largest side of the network's input in pixels.
        batch_size: windows that the network takes at once.
        region_size: largest side of what is decoded at once, in pixels.
        halo: pixels around a region that are decoded with it.
        is_exact: use windows of exactly `window` pixels.
        decoding: further arguments of `decode`, such as `normalisation`.
        min_areas: smallest nucleus of each type in pixels, background first; empty keeps all.
        read_workers: threads that read tiles.
        decode_workers: threads that decode regions; each holds the maps of one.
    """

    window: int = CPU_WINDOW
    batch_size: int = 1
    region_size: int = 2048
    halo: int = 96
    is_exact: bool = False
    decoding: DecodeOptions = field(default_factory=DecodeOptions)
    min_areas: Sequence[int] = ()
    read_workers: int = 1
    decode_workers: int = 1
