"""A network that takes tiles as they are read and gives maps as they are decoded: what engines run and exports hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.hovernet.channels import FULL_LEVEL, NUCLEUS
from models.hovernet.checkpoint import Network


class ProbabilityNetwork(nn.Module):
    """A network with its ends: tiles as they are read go in, probabilities come out.

    Args:
        network: gives HoverMaps of (N, 3, H, W) images.
        is_small: give probabilities as uint8, 255 standing for 1, and HV maps as float16: a quarter to a third of
            the bytes of float32.
    """

    def __init__(self, network: Network, *, is_small: bool = False) -> None:
        super().__init__()
        self.network = network
        self.is_small = is_small

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """(N, H, W, 3) uint8 RGB -> nuclei (N, h, w), hv (N, 2, h, w) and, with types, types (N, T, h, w)."""
        maps = self.network(tiles.permute(0, 3, 1, 2))
        nuclei = maps.nuclei.float().softmax(dim=1)[:, NUCLEUS]
        parts = [nuclei] if maps.types is None else [nuclei, maps.types.float().softmax(dim=1)]
        hv = maps.hv.float()
        if self.is_small:
            parts = [part.mul(FULL_LEVEL).round_().to(torch.uint8) for part in parts]
            hv = hv.to(torch.float16)
        return (parts[0], hv, *parts[1:])
