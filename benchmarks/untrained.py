"""HoVerNet with random weights, for benchmarks: the published ones are not ours to ship, and take the same time."""

from __future__ import annotations

import torch

from models.hovernet.network import HoVerNet

LOGIT = 10.0


def untrained_hovernet(mode: str) -> HoVerNet:
    """Return a network with five types that takes all for background; fresh weights make one blob of an image."""
    torch.manual_seed(0)
    network = HoVerNet(mode, 5)
    head = network.get_submodule("decoder.np.u0.conv")
    assert isinstance(head, torch.nn.Conv2d)
    torch.nn.init.zeros_(head.weight)
    head.bias = torch.nn.Parameter(torch.tensor([LOGIT, -LOGIT]))
    return network
