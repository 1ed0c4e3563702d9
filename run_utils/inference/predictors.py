"""Predictors: tiles in, maps of probabilities out, whatever the engine that runs the network."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataloader.stain import Normalizer, StainStatistics
from models.hovernet.facts import ModelFacts
from models.hovernet.geometry import Geometry

Maps = Any
"""NumPy arrays on the host; or tensors, where a predictor leaves them on its device to be decoded there."""


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


class PredictorGroup:
    """Several predictors of one network, each on a device of its own: a batch goes to the one that is free.

    Tiles, not rows of regions, are what is shared: each is predicted once, whatever the number of devices, and its
    maps do not depend on who predicts it. (Rows would each predict again the tiles that they share with the next.)

    Args:
        members: at least one; the first speaks for all.
        requests: batches that each takes at once.
    """

    def __init__(self, members: Sequence[Predictor], requests: int = 1) -> None:
        self.members = members
        self.requests = requests
        first = members[0]
        self.device = first.device
        self.geometry = first.geometry
        self.num_types = first.num_types
        self.facts = first.facts
        self._free: queue.Queue[Predictor] = queue.Queue()
        for member in [*members] * requests:
            self._free.put(member)

    def predict(self, tiles: Tiles) -> ProbabilityMaps:
        """Return the maps of (N, H, W, 3) uint8 RGB tiles; maps that stay on a device are on the member's."""
        member = self._free.get()
        try:
            return member.predict(tiles)
        finally:
            self._free.put(member)


def normalise_stain(predictor: Predictor, normalizer: Normalizer, source: StainStatistics) -> Predictor:
    """Return a predictor that normalises the tiles of one slide first; of a group, each member on its own device."""
    if isinstance(predictor, PredictorGroup):
        members = [NormalisingPredictor(member, normalizer, source) for member in predictor.members]
        return PredictorGroup(members, predictor.requests)
    return NormalisingPredictor(predictor, normalizer, source)


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
