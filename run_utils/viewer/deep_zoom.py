"""A slide as Deep Zoom tiles: the pyramid of JPEG tiles that the page's OpenSeadragon asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from dataloader.address import Address
from dataloader.overview import BLOCK_SIDE, num_read_threads
from dataloader.slides import Level, Slide

TILE_SIZE = 510  # pixels, without overlap: 512 with it
OVERLAP = 1  # pixels that a tile shares with each neighbour, so that no seam shows
JPEG_QUALITY = 85
CACHED_TILES = 512  # about 50 MB encoded
LARGEST_SHRINK = 8  # pixels read to a tile's pixel, along a side, that a tile is read with at once: 17 Mpx
LOW_POWER_PIXELS = 2**22  # of the picture that stands for levels a slide lacks: 13 MB
Box = tuple[int, int, int, int]
XML_NAMESPACE = "http://schemas.microsoft.com/deepzoom/2008"


class DeepZoom:
    """The tiles of a slide. Level ``last`` is level 0 of the slide, each level before it half as large.

    Where a slide has no level of its own near a tile's, the tile is read in blocks, one such tile at a time.
    The coarsest of those levels come from one low-power picture, so that the whole slide is decoded once for
    all of them, when the first is asked for.
    """

    def __init__(self, slide: Slide):
        """Serve ``slide``, whose µm/px must be known; it may be any number where only pixels count."""
        self.height, self.width = slide.shape_level0
        self.last = max(self.height - 1, self.width - 1, 0).bit_length()
        self._slide = slide
        self._cached_tile = lru_cache(CACHED_TILES)(self._encode)
        self._one_by_one = threading.Lock()
        self._low_power: Slide | None = None  # once a tile needs it
        self._low_power_level = self.last
        while self._num_pixels(self._low_power_level) > LOW_POWER_PIXELS:
            self._low_power_level -= 1

    def descriptor(self) -> str:
        """Return the .dzi file."""
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><Image xmlns="{XML_NAMESPACE}" Format="jpg" '
            f'Overlap="{OVERLAP}" TileSize="{TILE_SIZE}"><Size Height="{self.height}" Width="{self.width}"/>'
            "</Image>"
        )

    def tile(self, level: int, column: int, row: int) -> bytes:
        """Return a tile as JPEG; any number of threads may ask.

        Raises:
            LookupError: there is no such tile.
            SlideError: the slide cannot be read there.
        """
        if level > self.last or row * TILE_SIZE >= self._side(self.height, level):
            raise LookupError(f"no tile {column}, {row} on level {level}")
        if column * TILE_SIZE >= self._side(self.width, level):
            raise LookupError(f"no tile {column}, {row} on level {level}")
        if self._shrink(self._scale(level)) <= LARGEST_SHRINK:
            return self._cached_tile(level, column, row)
        with self._one_by_one:  # the cache as well, so that who waited for a tile does not make it again
            return self._cached_tile(level, column, row)

    def _scale(self, level: int) -> float:
        """Return level-0 pixels to a pixel of a level, along a side."""
        return 2.0 ** (self.last - level)

    def _shrink(self, scale: float) -> float:
        """Return pixels of the file to a pixel of ``scale`` level-0 pixels, along a side."""
        return scale / self._slide.levels[self._slide.source_level(scale)].downsample

    def _side(self, side: int, level: int) -> int:
        """Return a side's pixels on a level; a part of a pixel counts."""
        return -(-side // 2 ** (self.last - level))

    def _num_pixels(self, level: int) -> int:
        return self._side(self.height, level) * self._side(self.width, level)

    def _encode(self, level: int, column: int, row: int) -> bytes:
        box = []
        for index, side in ((row, self.height), (column, self.width)):
            first = max(0, index * TILE_SIZE - OVERLAP)
            box.append((first, min((index + 1) * TILE_SIZE + OVERLAP, self._side(side, level))))
        (top, bottom), (left, right) = box
        pixels = self._read((top, left, bottom, right), level)
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()

    def _read(self, box: Box, level: int) -> np.ndarray:
        """Read a box of a level; where the slide rounds down, its edge repeats."""
        mpp = self._mpp(level)
        height, width = self._slide.working_shape(mpp)
        top, left = min(box[0], height - 1), min(box[1], width - 1)
        bottom, right = min(box[2], height), min(box[3], width)
        pixels = self._read_inside((top, left, bottom, right), level)
        missing = (box[2] - box[0] - pixels.shape[0], box[3] - box[1] - pixels.shape[1])
        return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")

    def _read_inside(self, box: Box, level: int) -> np.ndarray:
        """Read a box within a level, from the file at once, from it in blocks, or from the low-power picture."""
        if self._shrink(self._scale(level)) <= LARGEST_SHRINK:
            return self._slide.read(box, self._mpp(level))
        if level > self._low_power_level:
            return self._read_in_blocks(box, level)
        if self._low_power is None:
            mpp = self._mpp(self._low_power_level)
            shape = self._slide.working_shape(mpp)
            picture = _Picture(self._slide.path, self._read_in_blocks((0, 0, *shape), self._low_power_level))
            self._low_power = Slide(picture, mpp)
        return self._low_power.read(box, self._mpp(level))

    def _read_in_blocks(self, box: Box, level: int) -> np.ndarray:
        """Read a box in pieces, which equals reading it at once, but holds only those that threads are at."""
        mpp, side = self._mpp(level), max(1, int(BLOCK_SIDE / self._shrink(self._scale(level))))
        pixels = np.empty((box[2] - box[0], box[3] - box[1], 3), np.uint8)
        pieces = list(_cut(box, side))
        with ThreadPoolExecutor(num_read_threads(), thread_name_prefix="low power") as threads:
            for (top, left, bottom, right), read in zip(
                pieces, threads.map(lambda piece: self._slide.read(piece, mpp), pieces), strict=True
            ):
                pixels[top - box[0] : bottom - box[0], left - box[1] : right - box[1]] = read
        return pixels

    def _mpp(self, level: int) -> float:
        assert self._slide.mpp is not None
        return self._scale(level) * self._slide.mpp


class _Picture:
    """Pixels in memory, as a slide's reader."""

    def __init__(self, path: Path | Address, pixels: np.ndarray):
        self.path = path
        self.mpp: float | None = None
        self.levels: tuple[Level, ...] = (Level((pixels.shape[0], pixels.shape[1]), 1.0),)
        self._pixels = pixels

    def read_level(self, level: int, box_yxyx: Box) -> np.ndarray:
        top, left, bottom, right = box_yxyx
        return self._pixels[top:bottom, left:right].copy()

    def close(self) -> None:
        """Hold no file."""


def _cut(box: Box, side: int) -> Iterator[Box]:
    """Yield the parts of a box in squares of ``side`` pixels that start at multiples of it: where tiles do."""
    for top in range(box[0] // side * side, box[2], side):
        for left in range(box[1] // side * side, box[3], side):
            yield max(top, box[0]), max(left, box[1]), min(top + side, box[2]), min(left + side, box[3])
