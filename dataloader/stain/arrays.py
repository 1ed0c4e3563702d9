"""Images as the stain code takes them: NumPy or CuPy with channels last, torch tensors with channels first.

Nothing is copied on the way in: a tensor on the CPU is seen as NumPy, one on a GPU as CuPy (DLPack) where CuPy is
installed. Where it is not, tensors on a GPU are worked on by torch itself.
"""

from __future__ import annotations

import logging
import math
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

_log = logging.getLogger(__name__)

BLOCK_SIDE = 8
"""Pixels, 2 µm at 40x: smaller than a nucleus, larger than the noise of a camera and of JPEG."""
MIN_BLOCKS = 4096
"""That small images are still cut into."""
_SEED = 0  # of the places where large images are sampled: the same image gives the same statistics


def namespace_of(array: Any) -> ModuleType:
    """Return the module whose functions take ``array``: numpy, torch or cupy.

    Raises:
        ValueError: if it is an array of none of them.
    """
    if isinstance(array, Tensor):
        return torch
    if isinstance(array, np.ndarray):
        return np
    if type(array).__module__.partition(".")[0] == "cupy":
        return load_gpu().cupy
    raise ValueError(f"images of type {type(array).__name__} are unknown; pass NumPy, CuPy or torch")


def load_gpu() -> ModuleType:
    """Return ``dataloader.stain.gpu``, the one file that imports CuPy."""
    from dataloader.stain import gpu

    return gpu


@cache
def has_cupy() -> bool:
    """Return whether CuPy works here: installed, and able to run on this machine's GPU; if not, torch does its work."""
    if find_spec("cupy") is None:
        return False
    try:
        cupy = load_gpu().cupy
        return int((cupy.zeros(1, np.uint8) + 1)[0]) == 1  # compiled and run: the driver may be too old
    except Exception as error:  # of its import, the driver, or the compiler: each has a class of its own
        _log.warning("CuPy is installed but does not work (%s): torch works in its place", error)
        return False


def to_grey_levels(images: Any) -> Any:
    """Return images as uint8 of the same kind and shape; uint8 comes back itself.

    Floats are grey levels too, 0..255, and are rounded. Where none exceeds 1 they were most likely scaled to
    0..1, in which they would be black: refused.

    Raises:
        ValueError: if a value is not finite, lies outside 0..255, or all are scaled to 0..1.
    """
    xp = namespace_of(images)
    if images.dtype == xp.uint8:
        return images
    is_float = images.dtype.is_floating_point if xp is torch else images.dtype.kind == "f"
    if math.prod(images.shape):
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 255):
            raise ValueError(
                f"image values {low:g}..{high:g} must be finite grey levels in 0..255; clip them or mend NaN"
            )
        if is_float and 0 < high <= 1:
            raise ValueError(
                f"image values {low:g}..{high:g} look scaled to 0..1, not to 0..255; multiply by 255"
            )
    levels = images.round() if is_float else images
    return levels.to(torch.uint8) if xp is torch else levels.astype(np.uint8)


def check_batch(images: Tensor, generator: torch.Generator) -> None:
    """Raise ValueError unless a batch can be varied at random: uint8 RGB (N, 3, H, W), and draws made on the CPU."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images {tuple(images.shape)} {images.dtype} must be (N, 3, H, W) uint8 RGB; augment before scaling"
        )
    if generator.device.type != "cpu":
        raise ValueError(f"the generator lies on {generator.device}, not on the CPU; use torch.Generator()")


def view_channels_last(images: Any) -> Any:
    """Return a view of RGB images with the channels last, (..., 3); a tensor (P, 3) of pixels has them there.

    Raises:
        ValueError: if there are no three channels where they belong.
    """
    is_tensor = namespace_of(images) is torch
    axis = -3 if is_tensor and images.ndim > 2 else -1
    if images.ndim < 2 or images.shape[axis] != 3:
        wanted = "(…, 3, H, W) or (P, 3)" if is_tensor else "(…, 3)"
        raise ValueError(f"images of shape {tuple(images.shape)} must be RGB {wanted}; move or drop channels")
    return images.movedim(-3, -1) if axis == -3 else images


def sample_pixels(images: Any, max_pixels: int | None) -> Any:
    """Return pixels to fit on, evenly spread over the images and the same on every call.

    Args:
        images: RGB images or (P, 3) pixels, as :func:`view_channels_last` takes them, in 0..255.
        max_pixels: how many at most; None takes all.

    Returns:
        (P, 3) uint8 NumPy or, for what lies on a GPU, CuPy (NumPy where CuPy is not installed).
    """
    pixels = view_channels_last(images)
    xp, shape = namespace_of(pixels), tuple(pixels.shape[:-1])
    total = math.prod(shape)
    if max_pixels is not None and total > max_pixels:
        jitter = np.random.default_rng(_SEED).random(max_pixels)
        places = ((np.arange(max_pixels) + jitter) * (total / max_pixels)).astype(np.int64)
        index = np.unravel_index(np.minimum(places, total - 1), shape)
        on_device = [_to_device(axis, pixels) for axis in index]
        pixels = pixels[tuple(on_device)]
    pixels = to_grey_levels(pixels.reshape(-1, 3))
    if xp is not torch:
        return pixels
    if _is_for_cupy(pixels):
        return load_gpu().cupy.from_dlpack(pixels.detach().contiguous())
    return pixels.detach().cpu().numpy()


def _is_for_cupy(tensor: Tensor) -> bool:
    return tensor.is_cuda and has_cupy()


def average_blocks(images: Any) -> Any:
    """Return the means over blocks of up to ``BLOCK_SIDE`` px a side, smaller where few blocks would be left.

    Args:
        images: RGB images as :func:`view_channels_last` takes them, in 0..255; (P, 3) pixels have no neighbours
            and come back as they are.

    Returns:
        (…, h, w, 3) uint8 NumPy or CuPy; what does not fill a block is left out.
    """
    pixels = view_channels_last(images)
    side = int(math.sqrt(math.prod(pixels.shape[:-1]) / MIN_BLOCKS))
    side = min(side, BLOCK_SIDE, *pixels.shape[-3:-1]) if pixels.ndim > 2 else 1
    if side < 2:
        return images
    pixels = to_grey_levels(pixels)
    if isinstance(pixels, Tensor):
        pixels = (
            load_gpu().cupy.from_dlpack(pixels.detach())
            if _is_for_cupy(pixels)
            else pixels.detach().cpu().numpy()
        )
    height, width = (length // side * side for length in pixels.shape[-3:-1])
    whole = pixels[..., :height, :width, :]
    if namespace_of(whole) is not np:
        blocks = whole.reshape(*whole.shape[:-3], height // side, side, width // side, side, 3)
        return blocks.mean((-4, -2)).round().astype(np.uint8)
    size = (width // side, height // side)
    flat = whole.reshape(-1, height, width, 3)
    means = [cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA) for image in flat]
    return np.stack(means).reshape(*whole.shape[:-3], size[1], size[0], 3)


def look_up_tensor(table: np.ndarray, levels: Tensor) -> Tensor:
    """Return the entries of a (256,) float32 table for uint8 grey levels; far faster than indexing with them."""
    index = levels.contiguous().flatten().int()
    on_device = torch.from_numpy(table).to(levels.device, non_blocking=True)
    return on_device.index_select(0, index).view(levels.shape)


def _to_device(index: np.ndarray, array: Any) -> Any:
    """Return an index array of the kind and device of ``array``."""
    if isinstance(array, Tensor):
        return torch.from_numpy(index).to(array.device)
    return namespace_of(array).asarray(index)


def to_host(array: Any) -> np.ndarray:
    """Return a NumPy or CuPy array as float64 NumPy."""
    return np.asarray(array.get() if hasattr(array, "get") else array, np.float64)
