"""Predictors: tiles in, maps of probabilities out, whatever the engine that runs the network."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch

from models.hovernet.channels import NUCLEUS
from models.hovernet.checkpoint import Network
from models.hovernet.geometry import Geometry
from models.hovernet.network import HoverMaps


class ProbabilityMaps(NamedTuple):
    """What decoding takes, for a batch of tiles or, without the first axis, for a region.

    Attributes:
        nuclei: (N, h, w) float32 probability of nucleus, 0..1.
        hv: (N, 2, h, w) float32 HV maps, about -1..1.
        types: (N, T, h, w) float32 probability of each type, background first, or None.
    """

    nuclei: np.ndarray
    hv: np.ndarray
    types: np.ndarray | None


class Predictor(Protocol):
    """Anything that turns tiles into maps.

    Attributes:
        geometry: which tile sizes fit, and what comes back.
        num_types: number of types, background counted; None for a network without types.
    """

    geometry: Geometry
    num_types: int | None

    def predict(self, tiles: np.ndarray) -> ProbabilityMaps:
        """Return the maps of (N, H, W, 3) uint8 RGB tiles, each side less by the geometry's margin."""


class TorchPredictor:
    """Runs a network with torch.

    Args:
        network: gives HoverMaps and has a `geometry`; moved to the device and put into eval mode.
        device: where it runs.
        dtype: number format of the computation; weights stay as they are.
    """

    def __init__(self, network: Network, device: torch.device, dtype: torch.dtype) -> None:
        self.network = network.to(device).eval()
        self.geometry: Geometry = network.geometry
        self.num_types: int | None = network.num_types
        self.device = device
        self.dtype = dtype

    def predict(self, tiles: np.ndarray) -> ProbabilityMaps:
        """Return the maps of (N, H, W, 3) uint8 RGB tiles, each side less by the geometry's margin.

        Where the device's memory is short, the batch is halved until it fits.

        Raises:
            MemoryError: where not even one tile fits.
        """
        try:
            return self._predict(tiles)
        except torch.OutOfMemoryError as error:
            if len(tiles) == 1:
                raise MemoryError(
                    f"a window of {tiles.shape[1]}x{tiles.shape[2]} px does not fit into the memory of "
                    f"{self.device}; set window= to a smaller size"
                ) from error
        half = len(tiles) // 2
        first, second = self.predict(tiles[:half]), self.predict(tiles[half:])
        types = None
        if first.types is not None and second.types is not None:
            types = np.concatenate([first.types, second.types])
        nuclei, hv = (np.concatenate(pair) for pair in zip(first[:2], second[:2], strict=True))
        return ProbabilityMaps(nuclei, hv, types)

    def _predict(self, tiles: np.ndarray) -> ProbabilityMaps:
        images = torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2)  # (N, 3, H, W), channels last
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with torch.inference_mode(), autocast:
            maps = self.network(images)
        return to_probabilities(maps)


def to_probabilities(maps: HoverMaps) -> ProbabilityMaps:
    """Return a network's raw outputs as arrays of probabilities on the host."""
    nuclei = maps.nuclei.float().softmax(dim=1)[:, NUCLEUS]
    types = None if maps.types is None else maps.types.float().softmax(dim=1).cpu().numpy()
    return ProbabilityMaps(nuclei.cpu().numpy(), maps.hv.float().cpu().numpy(), types)
