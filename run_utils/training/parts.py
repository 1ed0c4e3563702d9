"""What a training loop is made of; `run_utils.build` puts it together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.hovernet.checkpoint import Network
from run_utils.distributed import ALONE, World
from run_utils.training.device_transforms import DeviceTransforms
from run_utils.training.validation import Validator

Batch = Mapping[str, Tensor]
Loss = Callable[..., tuple[Tensor, Mapping[str, Tensor]]]


@dataclass
class TrainingParts:
    """What the loop works with; `run_utils.build` puts it together.

    Attributes:
        network: gives HoverMaps; already on its device.
        patches: items named `epoch * len + patch`.
        num_patches: patches in an epoch.
        transforms: batch to images and targets, on the device.
        loss: maps and targets to the total and its named terms.
        validator: scores a network on whole images; None trains without validation.
        device: of network, transforms and loss.
        world: the processes that share each batch, and among them this one.
        dtype: number format of the forward pass.
        num_workers: processes that read patches.
        patch_weights: (num_patches,) how often each patch is drawn; None draws each once an epoch.
        facts: what the saved network should know: `types`, `mpp`, `stain` and notes.
    """

    network: Network
    patches: Dataset[Batch]
    num_patches: int
    transforms: DeviceTransforms
    loss: Loss
    validator: Validator | None
    device: torch.device
    dtype: torch.dtype
    num_workers: int
    world: World = ALONE
    patch_weights: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
