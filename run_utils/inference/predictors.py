"""Predictors: tiles in, maps of probabilities out, whatever the engine that runs the network."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataloader.stain import Normalizer, StainStatistics
from models.hovernet.channels import NUCLEUS
from models.hovernet.checkpoint import Network
from models.hovernet.facts import ModelFacts
from models.hovernet.geometry import Geometry
from models.hovernet.network import HoverMaps

logger = logging.getLogger(__name__)


Maps = np.ndarray | Tensor
"""NumPy on the host, or a tensor that stays on the device to be decoded there."""


class ProbabilityMaps(NamedTuple):
    """What decoding takes, for a batch of tiles or, without the first axis, for a region.

    In full, maps are float32. In small, probabilities are uint8, 255 standing for 1, and HV maps float16.

    Attributes:
        nuclei: (N, h, w) probability of nucleus, 0..1.
        hv: (N, 2, h, w) HV maps, about -1..1.
        types: (N, T, h, w) probability of each type, background first, or None.
    """

    nuclei: Maps
    hv: Maps
    types: Maps | None


Tiles = np.ndarray | Tensor
"""NumPy, or a tensor that lies on the predictor's device already."""


class Predictor(Protocol):
    """Anything that turns tiles into maps.

    Attributes:
        device: where it works.
        geometry: which tile sizes fit, and what comes back.
        num_types: number of types, background counted; None for a network without types.
        facts: what the network knows of its types and resolution.
    """

    device: torch.device
    geometry: Geometry
    num_types: int | None
    facts: ModelFacts

    def predict(self, tiles: Tiles) -> ProbabilityMaps:
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
        self.facts: ModelFacts = network.facts
        self.device = device
        self.dtype = dtype
        self.largest_batch = sys.maxsize

    def predict(self, tiles: Tiles) -> ProbabilityMaps:
        """Return the maps of (N, H, W, 3) uint8 RGB tiles, each side less by the geometry's margin.

        Where the device's memory is short, the batch is halved until it fits, and stays so.

        Raises:
            MemoryError: where not even one tile fits.
        """
        parts: list[ProbabilityMaps] = []
        done = 0
        while done < len(tiles):
            batch = tiles[done : done + self.largest_batch]
            try:
                parts.append(self._predict(batch))
                done += len(batch)
            except torch.OutOfMemoryError as error:
                self._halve(batch, error)
        return parts[0] if len(parts) == 1 else _join(parts)

    def _halve(self, batch: Tiles, error: torch.OutOfMemoryError) -> None:
        num_tiles, height, width = batch.shape[:3]
        if num_tiles == 1:
            raise MemoryError(
                f"a window of {height}x{width} px does not fit into the memory of {self.device}; "
                "set window= to a smaller size"
            ) from error
        self.largest_batch = num_tiles // 2
        logger.warning(
            "out of memory on %s: goes on with %d windows a batch", self.device, self.largest_batch
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _predict(self, tiles: Tiles) -> ProbabilityMaps:
        images = torch.as_tensor(tiles).to(self.device).permute(0, 3, 1, 2)  # (N, 3, H, W), channels last
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with torch.inference_mode(), autocast:
            maps = self.network(images)
        return to_probabilities(maps)


class OverlappingPredictor:
    """Cuts the margins of another predictor's maps, so that its windows overlap by more than they must.

    What is cut on each side is a multiple of the network's stride: windows stay on the pooling grid that they
    have without overlap, since on a grid shifted by less a network gives other maps.

    Args:
        predictor: gives the maps.
        overlap: least pixels by which neighbouring windows overlap.
    """

    def __init__(self, predictor: Predictor, overlap: int) -> None:
        self.predictor = predictor
        self.num_types = predictor.num_types
        self.facts = predictor.facts
        self.device = predictor.device
        geometry = predictor.geometry
        num_strides = -(-max(overlap - geometry.margin, 0) // (2 * geometry.multiple))
        self.edge = num_strides * geometry.multiple  # cut on each side
        margin = geometry.margin + 2 * self.edge
        smallest = geometry.input_size_for(1 + 2 * self.edge)
        self.geometry = dataclasses.replace(
            geometry, margin=margin, smallest=max(geometry.smallest, smallest)
        )

    def predict(self, tiles: Tiles) -> ProbabilityMaps:
        """Return the maps of (N, H, W, 3) uint8 RGB tiles, each side less by the wider margin."""
        maps = self.predictor.predict(tiles)
        height, width = maps.nuclei.shape[-2:]
        inner = (..., slice(self.edge, height - self.edge), slice(self.edge, width - self.edge))
        types = None if maps.types is None else maps.types[inner]
        return ProbabilityMaps(maps.nuclei[inner], maps.hv[inner], types)


class NormalisingPredictor:
    """Brings the tiles of one slide to the stain that a network was trained on, on its device.

    Args:
        predictor: gives the maps.
        normalizer: the method, and the stain to bring tiles to.
        source: the slide's stain.
    """

    def __init__(self, predictor: Predictor, normalizer: Normalizer, source: StainStatistics) -> None:
        self.predictor = predictor
        self.normalizer = normalizer
        self.source = source
        self.device = predictor.device
        self.geometry = predictor.geometry
        self.num_types = predictor.num_types
        self.facts = predictor.facts

    def predict(self, tiles: Tiles) -> ProbabilityMaps:
        """Return the maps of (N, H, W, 3) uint8 RGB tiles in the slide's own stain."""
        if self.device.type == "cpu":
            return self.predictor.predict(self.normalizer.transform(tiles, self.source))
        images = torch.as_tensor(tiles).to(self.device).permute(0, 3, 1, 2)  # (N, 3, H, W), channels last
        return self.predictor.predict(self.normalizer.transform(images, self.source).permute(0, 2, 3, 1))


def to_probabilities(maps: HoverMaps) -> ProbabilityMaps:
    """Return a network's raw outputs as arrays of probabilities on the host."""
    nuclei = maps.nuclei.float().softmax(dim=1)[:, NUCLEUS]
    types = None if maps.types is None else maps.types.float().softmax(dim=1).cpu().numpy()
    return ProbabilityMaps(nuclei.cpu().numpy(), maps.hv.float().cpu().numpy(), types)


def _join(parts: Sequence[ProbabilityMaps]) -> ProbabilityMaps:
    nuclei, hv = (np.concatenate(column) for column in ([p.nuclei for p in parts], [p.hv for p in parts]))
    types = [part.types for part in parts if part.types is not None]
    return ProbabilityMaps(nuclei, hv, np.concatenate(types) if types else None)
