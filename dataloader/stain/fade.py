"""Where background begins, a change of stain fades out: glass keeps its colour, and white stays white."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from dataloader.stain.arrays import look_up_tensor

BACKGROUND_FROM = 230
"""Grey level that all channels of background reach; it is left as it is."""
TISSUE_UNTIL = 200
"""Grey level that some channel of tissue does not exceed; it changes fully, and what lies between in part."""

SHARE = np.clip((BACKGROUND_FROM - np.arange(256)) / (BACKGROUND_FROM - TISSUE_UNTIL), 0, 1).astype(
    np.float32
)
"""(256,) float32 share of the change, by the grey level of a pixel's darkest channel."""


def fade_block(block: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return ``values`` where there is tissue and ``block`` where not; ``values`` is overwritten.

    Args:
        block: (h, W, 3) uint8 RGB before the change.
        values: (h, W, 3) float32 grey levels after it.
    """
    red, green, blue = cv2.split(block)
    darkest = cv2.min(cv2.min(red, green), blue)
    if int(darkest.max()) <= TISSUE_UNTIL:
        return values
    share = cv2.LUT(darkest, SHARE)
    before = block.astype(np.float32)
    values -= before
    cv2.multiply(values, cv2.merge([share, share, share]), dst=values)
    values += before
    return values


def fade_tensor(images: Tensor, values: Tensor) -> Tensor:
    """Return :func:`fade_block` for (N, 3, H, W) tensors, uint8 before and float32 after."""
    share = look_up_tensor(SHARE, images.amin(1, keepdim=True))
    before = images.float()
    return before + share * (values - before)
