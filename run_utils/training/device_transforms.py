"""What happens to a batch on its device before the network sees it: colour, then targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.hovernet.targets import Targets, make_targets

ColourTransform = Callable[[Tensor, torch.Generator], Tensor]


@dataclass
class DeviceTransforms:
    """Moves a batch to the device and turns it into images and targets.

    Attributes:
        device: where the batch goes.
        output_size: side of the network's output in pixels, to which targets are cropped.
        has_types: whether the network gives types.
        colour: changes (N, 3, H, W) uint8 images, seeded by the generator it is given; None leaves them.
        legacy: targets as the reference makes them.
        channels_last: whether images keep their layout in memory, (N, H, W, 3).
    """

    device: torch.device
    output_size: int
    has_types: bool
    colour: ColourTransform | None = None
    legacy: bool = False
    channels_last: bool = True

    def __call__(self, batch: Mapping[str, Tensor], seed: int) -> tuple[Tensor, Targets]:
        """Return images (N, 3, H, W) uint8 and their targets.

        Args:
            batch: `image` (N, H, W, 3) uint8, `label_map` (N, H, W) int32 and, with types, `type_map`
                (N, H, W) uint8.
            seed: decides the colours of this batch, on any device layout and at any resumption.
        """
        max_id = int(batch["label_map"].max())  # read on the CPU: the device is not waited for
        moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        images = moved["image"].permute(0, 3, 1, 2)  # (N, 3, H, W); memory stays (N, H, W, 3)
        if not self.channels_last:
            images = images.contiguous()
        if self.colour is not None:
            images = self.colour(images, torch.Generator().manual_seed(seed))
        types = moved["type_map"] if self.has_types else None
        targets = make_targets(moved["label_map"], types, self.output_size, legacy=self.legacy, max_id=max_id)
        return images, targets
