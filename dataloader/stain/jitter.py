"""Vary the stain of a training batch, on the device it lies on, as another laboratory might have stained it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataloader.stain.arrays import check_batch, look_up_tensor
from dataloader.stain.deconvolution import HED_FROM_RGB, RGB_FROM_HED
from dataloader.stain.density import Variant

WHITE = 255.0
DENSITY = Variant(WHITE, floor=1).table()
"""(256,) float32 optical densities of the grey levels, dark ones too: what is not drawn stays as it is."""
FADE_BELOW = 0.15
"""Optical density, natural logarithm, of the strongest channel below which the shift fades out."""


@dataclass(frozen=True)
class HedJitter:
    """Scale and shift haematoxylin, eosin and DAB of each sample by its own draw (Tellez et al. 2018).

    In optical density (natural logarithm) the whole change is one 3 x 3 matrix and an offset per sample. The
    offset fades out below ``FADE_BELOW``, so that white stays white.

    Attributes:
        scale: largest share by which a concentration grows or shrinks, 0..1; 0 is off. 0.05 is light, 0.2 strong.
        shift: largest concentration added or taken, in optical density, 0..1; 0 is off.
    """

    scale: float = 0.05
    shift: float = 0.05

    def __post_init__(self) -> None:
        for name in ("scale", "shift"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} lies outside 0..1; set 0 to switch it off")

    def __call__(self, images: Tensor, generator: torch.Generator, rows: range | None = None) -> Tensor:
        """Return the batch in new stains; the input is left as it was.

        Args:
            images: (N, 3, H, W) uint8 RGB. An empty batch gives an empty batch.
            generator: the one source of randomness, on the CPU, so that no draw waits for the images' device.
            rows: the places of the images in a larger batch, whose size is the range's stop: each gets what it would
                get there. None for a batch that is whole.

        Returns:
            (N, 3, H, W) uint8 RGB in the memory format of ``images``.

        Raises:
            ValueError: if ``images`` is not uint8 RGB, or ``generator`` does not lie on the CPU.
        """
        check_batch(images, generator)
        rows = rows or range(len(images))
        draws = 2 * torch.rand((2, rows.stop, 3), generator=generator, dtype=torch.float64) - 1
        draws = draws[:, rows.start :: rows.step]
        matrices, offsets = self.density_changes(draws[0], draws[1])
        matrices, offsets = (
            part.to(images.device, torch.float32, non_blocking=True)[..., None, None]
            for part in (matrices, offsets)
        )
        density = look_up_tensor(DENSITY, images)  # (N, 3, H, W)
        changed = offsets * (density.amax(1, keepdim=True) / FADE_BELOW).clamp_(max=1)
        for channel in range(3):
            changed.addcmul_(matrices[:, :, channel], density[:, channel : channel + 1])
        levels = changed.neg_().exp_().mul_(WHITE).round_().clamp_(0, 255)
        return torch.empty_like(images).copy_(levels)

    def density_changes(self, scales: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, 3, 3) matrices and (N, 3) offsets of R, G, B optical densities.

        Args:
            scales: (N, 3) float64 in -1..1, shares of ``scale`` for haematoxylin, eosin, DAB.
            shifts: (N, 3) likewise of ``shift``.
        """
        mix, unmix = (torch.from_numpy(np.ascontiguousarray(part.T)) for part in (RGB_FROM_HED, HED_FROM_RGB))
        return mix * (1 + self.scale * scales)[:, None] @ unmix, self.shift * shifts @ mix.T
