"""A large JPEG pyramid whose pixels are the sample slide's, repeated; the benchmarks of reading write it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

TILE = 256  # px
NUM_LEVELS = 4  # each half of the one before
UM_PER_CM = 10_000


def write_pyramid(path: Path, image: np.ndarray, size: int, *, mpp: float, quality: int | None = 80) -> None:
    """Write a tiled pyramid of ``size`` x ``size`` pixels that repeats ``image``.

    Args:
        path: of the TIFF.
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        size: side of level 0, px.
        mpp: µm to a level-0 pixel.
        quality: of the JPEG tiles, 4:2:0; None packs them with LZW, without loss.
    """
    period = 2 ** (NUM_LEVELS - 1)
    image = image[: len(image) // period * period, : image.shape[1] // period * period]
    options: dict[str, Any] = {
        "tile": (TILE, TILE),
        "photometric": "rgb" if image.ndim == 3 else "minisblack",
        "metadata": None,
    }
    if quality is None:
        options |= {"compression": "lzw"}
    else:
        options |= {"compression": "jpeg", "compressionargs": {"level": quality}, "subsampling": (2, 2)}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(NUM_LEVELS):
            side = size >> level
            file.write(
                _tiles(_block_mean(image, 2**level), side),
                shape=(side, side, *image.shape[2:]),
                dtype=np.uint8,
                subfiletype=int(level > 0),
                resolution=(UM_PER_CM / mpp / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                maxworkers=2,
                **options,
            )


def _tiles(image: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Yield the tiles, row by row, of an image of ``side`` px that repeats ``image``."""
    starts = range(0, side, TILE)
    for top in starts:
        rows = np.take(image, range(top, top + TILE), 0, mode="wrap")
        for left in starts:
            yield np.ascontiguousarray(np.take(rows, range(left, left + TILE), 1, mode="wrap"))


def _block_mean(image: np.ndarray, step: int) -> np.ndarray:
    height, width = image.shape[0] // step, image.shape[1] // step
    blocks = image.reshape(height, step, width, step, *image.shape[2:])
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)
