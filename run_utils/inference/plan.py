"""How an image or slide is cut up, decoded and worked on at once; `build.py` makes it from the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from dataloader.grid import TileGrid
from dataloader.lattice import TileLattice, WindowRule, lay_tiles
from models.hovernet.postprocess import decode
from models.nuclei import Nuclei

CPU_WINDOW = 1280  # px; larger ones gain little and take memory
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
        region_size: largest side of what is decoded at once, in pixels; in effect a multiple of a window's output.
        halo: pixels around a region that are decoded with it.
        is_exact: use windows of exactly `window` pixels.
        decode: turns the maps of a region, as the predictor gives them, into a label map and nuclei.
        decoding: further arguments of `decode`, such as `normalisation`.
        min_areas: smallest nucleus of each type in pixels, background first; empty keeps all.
        read_workers: threads that read tiles.
        predict_workers: threads that predict batches; with two, a GPU copies one's maps while it works on the other.
        decode_workers: threads that decode regions; each holds the maps of one.
    """

    window: int = CPU_WINDOW
    batch_size: int = 1
    region_size: int = 2048
    halo: int = 96
    is_exact: bool = False
    decode: Callable[..., tuple[np.ndarray, Nuclei]] = decode
    decoding: DecodeOptions = field(default_factory=DecodeOptions)
    min_areas: Sequence[int] = ()
    read_workers: int = 1
    predict_workers: int = 1
    decode_workers: int = 1

    @property
    def most_regions(self) -> int:
        """Regions whose maps are held at once: in work, and on either side of that."""
        return self.decode_workers + 2

    def lay_tiles(self, shape: tuple[int, int], rule: WindowRule) -> TileLattice:
        """Return the windows of an image of (H, W) pixels."""
        return lay_tiles(shape, rule, self.window, largest_step=self.region_size, is_exact=self.is_exact)

    def cut_regions(self, shape: tuple[int, int], rule: WindowRule) -> TileGrid:
        """Return the regions of an image of (H, W) pixels, which end where its windows' outputs end."""
        return TileGrid(shape, self.region_size, self.halo, self.lay_tiles(shape, rule).steps)
