"""Give images new colours in one pass, each array where it lies: OpenCV on the CPU, a kernel on a GPU, or torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from dataloader.stain.arrays import has_cupy, load_gpu, namespace_of, to_grey_levels, view_channels_last

BLOCK_PIXELS = 2**16
"""Worked on at once on the CPU: 0.8 MB of float32, which a core's cache holds."""


class Recolouring(Protocol):
    """A change of colours, one for all images or one for each; how many, ``num_sources`` tells."""

    num_sources: int

    def is_unchanged(self, number: int) -> bool:
        """Return whether source ``number`` leaves its image as it is."""

    def recolour_block(self, block: np.ndarray, number: int) -> np.ndarray:
        """Return (h, W, 3) float32 or uint8 grey levels, rounded, of a (h, W, 3) uint8 block for source ``number``."""

    def recolour_tensor(self, images: Tensor) -> Tensor:
        """Return (N, 3, H, W) float32 grey levels, neither rounded nor clipped, of (N, 3, H, W) uint8."""

    def recolour_cupy(self, source: Any, result: Any) -> None:
        """Write to (N, H, W, 3) uint8 CuPy the new colours of ``source``, the same; any strides."""


def recolour(images: Any, recolouring: Recolouring) -> Any:
    """Return RGB images in new colours, uint8 of the kind, shape and memory format of ``images``.

    Args:
        images: (H, W, 3) or (N, H, W, 3) NumPy or CuPy, (3, H, W) or (N, 3, H, W) torch; in 0..255.
        recolouring: what is done.

    Raises:
        ValueError: if ``images`` are no RGB in 0..255, or not as many as the sources.
    """
    images = to_grey_levels(images)
    if images.ndim not in (3, 4):
        raise ValueError(f"images of shape {tuple(images.shape)} must be one image or a batch of them")
    view_channels_last(images)
    num_images = images.shape[0] if images.ndim == 4 else 1
    if recolouring.num_sources not in (1, num_images):
        raise ValueError(
            f"{recolouring.num_sources} sources do not match {num_images} images; pass one, or one each"
        )
    xp = namespace_of(images)
    result = xp.empty_like(images) if xp is torch else xp.empty(images.shape, np.uint8)
    if not num_images or 0 in images.shape:
        return result
    source, into = _as_batch(images), _as_batch(result)
    if xp is np:
        _recolour_cpu(source, into, recolouring)
    elif xp is not torch:
        recolouring.recolour_cupy(source, into)
    elif images.device.type == "cpu":
        arrays = [view_channels_last(part.detach()).numpy() for part in (source, into)]
        _recolour_cpu(arrays[0], arrays[1], recolouring)
    elif images.is_cuda and has_cupy():
        load_gpu().recolour_torch(source, into, recolouring)
    else:
        into.copy_(recolour_tensor(source, recolouring))
    return result


def recolour_tensor(images: Tensor, recolouring: Recolouring) -> Tensor:
    """Return (N, 3, H, W) uint8 in new colours, by torch alone, on any device."""
    levels = recolouring.recolour_tensor(images).round_().clamp_(0, 255).to(torch.uint8)
    unchanged = [recolouring.is_unchanged(number) for number in range(recolouring.num_sources)]
    if any(unchanged):
        stays = torch.tensor(unchanged, device=images.device)[:, None, None, None]
        levels = torch.where(stays, images, levels)
    return levels


def _recolour_cpu(source: np.ndarray, result: np.ndarray, recolouring: Recolouring) -> None:
    """Write (N, H, W, 3) uint8 ``result``, a block of rows after another."""
    for number, (image, into) in enumerate(zip(source, result, strict=True)):
        number = min(number, recolouring.num_sources - 1)
        if recolouring.is_unchanged(number):
            into[:] = image
            continue
        for rows in _row_blocks(image.shape[0], image.shape[1]):
            _put(into[rows], recolouring.recolour_block(_interleave(image[rows]), number))


def _interleave(block: np.ndarray) -> np.ndarray:
    """Return (h, W, 3) with the channels of a pixel side by side; OpenCV is faster at it than NumPy's copy."""
    if block.strides[2] == 1 or block.strides[1] != 1:
        return np.ascontiguousarray(block)
    return cv2.merge([block[..., channel] for channel in range(3)])


def _put(into: np.ndarray, values: np.ndarray) -> None:
    """Write (h, W, 3) whole grey levels, channels side by side, to uint8 of any strides."""
    if into.strides[2] == 1:
        into[:] = values
        return
    for channel, plane in enumerate(cv2.split(values.astype(np.uint8))):
        into[..., channel] = plane


def _row_blocks(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of blocks of about ``BLOCK_PIXELS``."""
    step = max(BLOCK_PIXELS // width, 1)
    for start in range(0, height, step):
        yield slice(start, start + step)


def _as_batch(images: Any) -> Any:
    """Return (N, …) for one image or a batch."""
    return images if images.ndim == 4 else images[None]
