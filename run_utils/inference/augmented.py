"""Test-time augmentation: a predictor that looks at each tile flipped and turned, and averages what it sees."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.hovernet.channels import HORIZONTAL, VERTICAL
from run_utils.inference.predictors import Predictor, ProbabilityMaps, Tiles


class View(NamedTuple):
    """One of the eight ways to lay a square on itself: rows and columns swapped first, then flipped.

    Attributes:
        is_transposed: whether rows and columns are swapped.
        flips_rows: whether the first row becomes the last.
        flips_columns: whether the first column becomes the last.
    """

    is_transposed: bool
    flips_rows: bool
    flips_columns: bool

    def of_tiles(self, tiles: Any) -> Any:
        """Return (N, H, W, 3) NumPy or torch tiles seen this way, (N, W, H, 3) where transposed; contiguous."""
        seen = tiles.swapaxes(1, 2) if self.is_transposed else tiles
        axes = tuple(axis for axis, flips in ((1, self.flips_rows), (2, self.flips_columns)) if flips)
        if isinstance(seen, Tensor):
            return seen.flip(axes).contiguous()
        return np.ascontiguousarray(np.flip(seen, axes))

    def undo(self, maps: np.ndarray) -> np.ndarray:
        """Return (..., h, w) maps of tiles seen this way in the tiles' own frame, as a view."""
        axes = tuple(axis for axis, flips in ((-2, self.flips_rows), (-1, self.flips_columns)) if flips)
        maps = np.flip(maps, axes)
        return maps.swapaxes(-1, -2) if self.is_transposed else maps

    def undo_hv(self, hv: np.ndarray) -> np.ndarray:
        """Return (N, 2, h, w) HV maps in the tiles' own frame: what was flipped changes its sign, turned its place."""
        signs = np.ones((2, 1, 1), hv.dtype)
        signs[VERTICAL] = -1 if self.flips_rows else 1
        signs[HORIZONTAL] = -1 if self.flips_columns else 1
        upright = self.undo(hv * signs)
        return upright[:, ::-1] if self.is_transposed else upright


UPRIGHT = View(False, False, False)
FLIPS = (UPRIGHT, View(False, True, False), View(False, False, True), View(False, True, True))
VIEWS: dict[str, tuple[View, ...]] = {
    "none": (UPRIGHT,),
    "flips": FLIPS,
    "turns": (UPRIGHT, View(True, True, False), View(False, True, True), View(True, False, True)),
    "all": (*FLIPS, *(view._replace(is_transposed=True) for view in FLIPS)),
}
"""By name: upright alone, both flips and both together, quarter turns, all eight."""


class AugmentedPredictor:
    """Averages another predictor's maps over several views of each tile.

    Args:
        predictor: gives the maps.
        views: a row of ``VIEWS``.
    """

    def __init__(self, predictor: Predictor, views: tuple[View, ...]) -> None:
        self.predictor = predictor
        self.views = views
        self.device: torch.device = predictor.device
        self.geometry = predictor.geometry
        self.num_types = predictor.num_types
        self.facts = predictor.facts

    def predict(self, tiles: Tiles) -> ProbabilityMaps:
        """Return the mean maps of (N, H, W, 3) uint8 RGB tiles over all views."""
        share = np.float32(1 / len(self.views))
        nuclei, hv, types = self._predict(tiles, self.views[0])
        for view in self.views[1:]:
            maps = self._predict(tiles, view)
            nuclei, hv = nuclei + maps.nuclei, hv + maps.hv
            types = None if types is None or maps.types is None else types + maps.types
        return ProbabilityMaps(nuclei * share, hv * share, None if types is None else types * share)

    def _predict(self, tiles: Tiles, view: View) -> ProbabilityMaps:
        maps = self.predictor.predict(view.of_tiles(tiles))
        types = None if maps.types is None else view.undo(maps.types)
        return ProbabilityMaps(view.undo(maps.nuclei), view.undo_hv(maps.hv), types)
