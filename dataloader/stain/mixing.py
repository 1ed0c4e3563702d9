"""One product of optical densities with a 3 x 3 matrix: Macenko's and Vahadane's way from stain to stain."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from dataloader.stain.arrays import load_gpu, look_up_tensor
from dataloader.stain.fade import fade_block, fade_tensor


class DensityMixing:
    """Grey levels to optical densities by a table, mixed by a matrix, and back: ``I0 exp(-M d(I))``.

    Args:
        matrices: (K, 3, 3) float32, one for all images or one each; the identity leaves an image as it is.
        table: (256,) float32 optical densities of the grey levels.
        intensity: grey level of no absorption, I0.
        fades: whether the change fades out where background begins.
    """

    def __init__(self, matrices: np.ndarray, table: np.ndarray, intensity: float, *, fades: bool) -> None:
        self.matrices = np.ascontiguousarray(matrices, np.float32)
        self.table = table
        self.intensity = intensity
        self.fades = fades
        self.num_sources = len(matrices)
        self.unchanged = (self.matrices == np.eye(3, dtype=np.float32)).all((1, 2))
        shift = np.full((self.num_sources, 3, 1), np.log(intensity))
        self._affine = np.concatenate([-self.matrices, shift], 2).astype(np.float32)

    def is_unchanged(self, number: int) -> bool:
        """Return whether source ``number`` leaves its image as it is."""
        return bool(self.unchanged[number])

    def recolour_block(self, block: np.ndarray, number: int) -> np.ndarray:
        """Return (h, W, 3) float32 grey levels, rounded; see ``Recolouring``."""
        values = cv2.transform(cv2.LUT(block, self.table), self._affine[number])
        cv2.exp(values, values)
        np.clip(values, 0, 255, out=values)
        if self.fades:
            values = fade_block(block, values)
        return np.rint(values, out=values)

    def recolour_tensor(self, images: Tensor) -> Tensor:
        """Return (N, 3, H, W) float32 grey levels; see ``Recolouring``.

        The nine products are written out: a matrix product would run in TF32 where training has asked for it.
        """
        device = images.device
        density = look_up_tensor(self.table, images)
        weights = torch.from_numpy(self.matrices).to(device)[..., None, None]
        mixed = weights[:, :, 0] * density[:, :1]
        for channel in (1, 2):
            mixed.addcmul_(weights[:, :, channel], density[:, channel : channel + 1])
        mixed.neg_().exp_().mul_(self.intensity).clamp_(0, 255)
        return fade_tensor(images, mixed) if self.fades else mixed

    def recolour_cupy(self, source: Any, result: Any) -> None:
        """Write (N, H, W, 3) uint8 CuPy by one kernel; see ``Recolouring``."""
        load_gpu().mix_densities(source, result, self)
