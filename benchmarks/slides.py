"""Test slides for the benchmarks: tiled JPEG pyramids of any size, made of the sample slide's tissue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile

from dataloader.slides import open_slide

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "CMU-1-Small-Region.svs"
TILE = 512
WHITE = 243  # the sample's empty glass
JPEG_QUALITY = 80


def sample_tissue(mpp: float) -> np.ndarray:
    """Return the sample slide as (H, W, 3) uint8 RGB at a resolution in µm/px, sides multiples of 512."""
    with open_slide(SAMPLE) as slide:
        height, width = (side // TILE * TILE for side in slide.working_shape(mpp))
        return slide.read((0, 0, height, width), mpp)


def write_pyramid(
    path: Path,
    side: int,
    tissue: np.ndarray,
    corners_yx: Sequence[tuple[int, int]],
    *,
    mpp: float,
    downsamples: Sequence[int] = (1, 4, 16, 64),
) -> None:
    """Write a square slide: empty glass, with copies of a picture of tissue on it.

    Args:
        path: the file, a tiled BigTIFF.
        side: height and width in level-0 px.
        tissue: (h, w, 3) uint8 RGB, sides multiples of 512.
        corners_yx: where copies lie, multiples of 512; they may overlap.
        mpp: µm to a level-0 pixel.
        downsamples: level-0 pixels to a pixel of each level.
    """
    resolution = (1e4 / mpp, 1e4 / mpp)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for downsample in downsamples:
            size = (tissue.shape[1] // downsample, tissue.shape[0] // downsample)
            small = cv2.resize(tissue, size, interpolation=cv2.INTER_AREA)
            level = -(-side // downsample)
            corners = [(y // downsample, x // downsample) for y, x in corners_yx]
            file.write(
                _tiles(level, small, corners),
                shape=(level, level, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                subifds=len(downsamples) - 1 if downsample == 1 else None,
                subfiletype=0 if downsample == 1 else 1,
                resolution=(resolution[0] / downsample, resolution[1] / downsample),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def spread(side: int, shape: tuple[int, int], share: float) -> list[tuple[int, int]]:
    """Return corners, multiples of 512, of as many copies of ``shape`` as cover a share of a square slide."""
    rows, columns = side // (shape[0] + TILE), side // (shape[1] + TILE)
    count = max(1, round(share * side**2 / (shape[0] * shape[1])))
    cells = np.linspace(0, rows * columns - 1, min(count, rows * columns)).round().astype(int)
    pitch = [side // number // TILE * TILE for number in (rows, columns)]
    return [(int(cell // columns) * pitch[0], int(cell % columns) * pitch[1]) for cell in cells]


def _tiles(side: int, tissue: np.ndarray, corners: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """Yield a level's tiles, row by row."""
    height, width = tissue.shape[:2]
    for top in range(0, side, TILE):
        for left in range(0, side, TILE):
            tile = np.full((TILE, TILE, 3), WHITE, np.uint8)
            for y, x in corners:
                low = (max(y, top), max(x, left))
                high = (min(y + height, top + TILE), min(x + width, left + TILE))
                if low[0] < high[0] and low[1] < high[1]:
                    source = tissue[low[0] - y : high[0] - y, low[1] - x : high[1] - x]
                    tile[low[0] - top : high[0] - top, low[1] - left : high[1] - left] = source
            yield tile
