"""Large pyramids whose pixels are the sample slide's: what the benchmarks of readers and slides read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

TILE = 256  # px
UM_PER_CM = 10_000
GLASS = 243  # grey level of the sample's empty glass
ALIGNMENT = 64  # px: copies of tissue lie at multiples of it, so that every level holds whole pixels of them

Corners = Sequence[tuple[int, int]]


def write_pyramid(
    path: Path,
    image: np.ndarray,
    size: int,
    *,
    mpp: float,
    quality: int | None = 80,
    corners_yx: Corners | None = None,
    downsamples: Sequence[int] = (1, 2, 4, 8),
) -> None:
    """Write a tiled pyramid of ``size`` x ``size`` pixels that repeats ``image``, or shows copies of it on glass.

    Args:
        path: of the TIFF.
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        size: side of level 0, px.
        mpp: µm to a level-0 pixel.
        quality: of the JPEG tiles, 4:2:0; None packs them with LZW, without loss.
        corners_yx: where copies lie, multiples of 64 px; None fills the slide.
        downsamples: level-0 pixels to a pixel of each level.
    """
    period = max(downsamples)
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
        for step in downsamples:
            side, small = size // step, _block_mean(image, step)
            corners = None if corners_yx is None else [(y // step, x // step) for y, x in corners_yx]
            file.write(
                _repeat(small, side) if corners is None else _place(small, side, corners),
                shape=(side, side, *image.shape[2:]),
                dtype=np.uint8,
                subfiletype=int(step > 1),
                resolution=(UM_PER_CM / mpp / step,) * 2,
                resolutionunit="CENTIMETER",
                maxworkers=2,
                **options,
            )


def spread(size: int, shape: tuple[int, int], share: float) -> list[tuple[int, int]]:
    """Return corners of as many copies of ``shape`` as cover a share of a square slide, far from one another."""
    rows, columns = size // (shape[0] + ALIGNMENT), size // (shape[1] + ALIGNMENT)
    count = max(1, round(share * size**2 / (shape[0] * shape[1])))
    cells = np.linspace(0, rows * columns - 1, min(count, rows * columns)).round().astype(int)
    pitch = [size // number // ALIGNMENT * ALIGNMENT for number in (rows, columns)]
    return [(int(cell // columns) * pitch[0], int(cell % columns) * pitch[1]) for cell in cells]


def _repeat(image: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Yield the tiles, row by row, of an image of ``side`` px that repeats ``image``."""
    starts = range(0, side, TILE)
    for top in starts:
        rows = np.take(image, range(top, top + TILE), 0, mode="wrap")
        for left in starts:
            yield np.ascontiguousarray(np.take(rows, range(left, left + TILE), 1, mode="wrap"))


def _place(image: np.ndarray, side: int, corners_yx: Corners) -> Iterator[np.ndarray]:
    """Yield the tiles, row by row, of glass of ``side`` px with copies of ``image`` on it."""
    height, width = image.shape[:2]
    for top in range(0, side, TILE):
        for left in range(0, side, TILE):
            tile = np.full((TILE, TILE, *image.shape[2:]), GLASS, np.uint8)
            for y, x in corners_yx:
                low = (max(y, top), max(x, left))
                high = (min(y + height, top + TILE), min(x + width, left + TILE))
                if low[0] < high[0] and low[1] < high[1]:
                    source = image[low[0] - y : high[0] - y, low[1] - x : high[1] - x]
                    tile[low[0] - top : high[0] - top, low[1] - left : high[1] - left] = source
            yield tile


def _block_mean(image: np.ndarray, step: int) -> np.ndarray:
    height, width = image.shape[0] // step, image.shape[1] // step
    blocks = image.reshape(height, step, width, step, *image.shape[2:])
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)
