"""The stain code's CUDA kernels, through CuPy: one pass, uint8 in and out. The one file that imports CuPy."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np
import torch
from torch import Tensor

from dataloader.stain.cuda_source import SOURCE
from dataloader.stain.lab import LINEAR

if TYPE_CHECKING:
    from dataloader.stain.apply import Recolouring
    from dataloader.stain.mixing import DensityMixing
    from dataloader.stain.reinhard import LabShift

_THREADS = 256
_MAX_BLOCKS = 4096  # an image; each thread then takes several pixels, and the table is loaded less often
_MAX_IMAGES = 65535  # the second axis of a CUDA grid


def mix_densities(source: Any, result: Any, mixing: DensityMixing) -> None:
    """Write (N, H, W, 3) uint8 CuPy ``result``, any strides, by the product of densities that ``mixing`` holds."""
    facts = (
        cupy.asarray(mixing.table),
        cupy.asarray(mixing.matrices),
        cupy.asarray(mixing.unchanged),
        np.int32(mixing.num_sources > 1),
        np.int32(mixing.fades),
        np.float32(mixing.intensity),
    )
    _launch("mix_densities", source, result, facts)


def shift_lab(source: Any, result: Any, shift: LabShift) -> None:
    """Write (N, H, W, 3) uint8 CuPy ``result``, any strides, by the change of L*a*b* that ``shift`` holds."""
    affine = np.concatenate([shift.scale, shift.shift], 1).astype(np.float32)  # (K, 6)
    facts = (
        cupy.asarray(LINEAR),
        cupy.asarray(affine),
        cupy.asarray(shift.unchanged),
        np.int32(shift.num_sources > 1),
    )
    _launch("shift_lab", source, result, facts)


def recolour_torch(source: Tensor, result: Tensor, recolouring: Recolouring) -> None:
    """Write (N, 3, H, W) uint8 CUDA ``result``: CuPy works on torch's memory, on torch's stream."""
    device = source.device.index
    stream = torch.cuda.current_stream(source.device).cuda_stream
    with cupy.cuda.Device(device), cupy.cuda.ExternalStream(stream, device):
        views = [cupy.from_dlpack(part.detach().movedim(1, -1)) for part in (source, result)]
        recolouring.recolour_cupy(*views)


def _launch(name: str, source: Any, result: Any, facts: tuple[Any, ...]) -> None:
    """Run a kernel over all pixels of all images."""
    num, height, width, _ = source.shape
    if num > _MAX_IMAGES:
        raise ValueError(f"{num} images exceed {_MAX_IMAGES} in one call; pass smaller batches")
    blocks = min(-(-height * width // _THREADS), _MAX_BLOCKS)
    strides = [np.int64(step) for array in (source, result) for step in array.strides]
    sizes = (np.uint32(height * width), np.uint32(width))
    _kernel(name)((blocks, num), (_THREADS,), (source, result, *facts, *sizes, *strides))


@cache
def _kernel(name: str) -> Any:
    """Return a compiled kernel."""
    return cupy.RawModule(code=SOURCE, options=("--std=c++14",)).get_function(name)
