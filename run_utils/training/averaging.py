"""The exponential moving average of a network's weights, which is what is validated and kept."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def make_average(network: nn.Module) -> AveragedModel:
    """Return a copy of a network, buffers included, for `move_average` to move."""
    return AveragedModel(network, use_buffers=True)


@torch.no_grad()
def move_average(average: AveragedModel, network: nn.Module, decay: float) -> None:
    """Keep ``decay`` of the average, and take the rest from the network; the first time, all.

    AveragedModel's own update would wait for the device at each step.
    """
    weight = 1 - decay if average.n_averaged else 1.0
    averaged, current = _tensors(average.module), _tensors(network)
    is_float = [values.is_floating_point() for values in averaged]
    pairs = list(zip(averaged, current, is_float, strict=True))
    torch._foreach_lerp_(
        [own for own, _, smooth in pairs if smooth], [new for _, new, smooth in pairs if smooth], weight
    )
    for own, new, smooth in pairs:
        if not smooth:  # counts of batches
            own.copy_(new)
    average.n_averaged += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return list(chain(module.parameters(), module.buffers()))
