"""What happens to a batch on its device before the network sees it: stain and colour, then targets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataloader.stain import Normalizer, StainStatistics
from models.hovernet.targets import Targets, make_targets

ColourTransform = Callable[[Tensor, torch.Generator, range | None], Tensor]


@dataclass(frozen=True)
class Stage:
    """One step on the way of a batch's images to the network.

    Attributes:
        name: as a contact sheet shows it.
        number: of its own among all stages there are: its draws do not depend on which others are switched on.
        normalise: changes (N, 3, H, W) uint8 images, given the number of each one's source image.
        colour: changes them at random, by the generator it is given and their places in the batch; one of the two is
            set.
    """

    name: str
    number: int
    normalise: Callable[[Tensor, Sequence[int]], Tensor] | None = None
    colour: ColourTransform | None = None

    def __call__(
        self, images: Tensor, sources: Sequence[int], seed: int, rows: range | None = None
    ) -> Tensor:
        """Return (N, 3, H, W) uint8 images after this stage, in the memory format of ``images``."""
        if self.normalise is not None:
            images = self.normalise(images, sources)
        if self.colour is not None:
            own_seed = np.random.SeedSequence([seed, self.number]).generate_state(1, np.uint64)[0]
            images = self.colour(images, torch.Generator().manual_seed(int(own_seed >> 1)), rows)
        return images


@dataclass(frozen=True)
class SourceNormaliser:
    """Normalises each image of a batch by the stain of the image it was cut from.

    Attributes:
        normalizer: the method, and its target.
        statistics: of every source image, fitted on the whole of it.
    """

    normalizer: Normalizer
    statistics: Sequence[StainStatistics]

    def __call__(self, images: Any, sources: Sequence[int]) -> Any:
        """Return N images in the target's stain.

        Args:
            images: (N, 3, H, W) uint8 tensor, or (N, H, W, 3) NumPy.
            sources: N positions in ``statistics``.
        """
        return self.normalizer.transform(images, [self.statistics[source] for source in sources])


@dataclass
class DeviceTransforms:
    """Moves a batch to the device and turns it into images and targets.

    Attributes:
        device: where the batch goes.
        output_size: side of the network's output in pixels, to which targets are cropped.
        has_types: whether the network gives types.
        stages: what happens to the images, in order.
        legacy: targets as the reference makes them.
        channels_last: whether images keep their layout in memory, (N, H, W, 3).
    """

    device: torch.device
    output_size: int
    has_types: bool
    stages: Sequence[Stage] = ()
    legacy: bool = False
    channels_last: bool = True

    def __call__(
        self, batch: Mapping[str, Tensor], seed: int, rows: range | None = None
    ) -> tuple[Tensor, Targets]:
        """Return images (N, 3, H, W) uint8 and their targets.

        Args:
            batch: `image` (N, H, W, 3) uint8, `label_map` (N, H, W) int32, `source` (N,) int64, the number of each
                one's source image, and, with types, `type_map` (N, H, W) uint8; on the CPU.
            seed: decides the colours of this batch, on any device layout and at any resumption.
            rows: the places of the N patches in the batch, whose size is the range's stop, where processes share one:
                a patch looks as it would in one process. None for a batch that is whole.
        """
        max_id = int(batch["label_map"].max())  # read on the CPU: the device is not waited for
        label_map = batch["label_map"].to(self.device, non_blocking=True)
        types = batch["type_map"].to(self.device, non_blocking=True) if self.has_types else None
        images = deque(self.stage_images(batch, seed, rows), maxlen=1).pop()[1]
        targets = make_targets(label_map, types, self.output_size, legacy=self.legacy, max_id=max_id)
        return images, targets

    def stage_images(
        self, batch: Mapping[str, Tensor], seed: int, rows: range | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the name of each stage with the batch's images after it, first of all as they were read."""
        images = batch["image"].to(self.device, non_blocking=True).permute(0, 3, 1, 2)  # (N, 3, H, W)
        if not self.channels_last:
            images = images.contiguous()
        yield "patch", images
        sources = batch["source"].tolist()
        for stage in self.stages:
            images = stage(images, sources, seed, rows)
            yield stage.name, images
