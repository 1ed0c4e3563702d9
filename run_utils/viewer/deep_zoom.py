"""A slide as Deep Zoom tiles: the pyramid of JPEG tiles that the page's OpenSeadragon asks for."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from dataloader.slides import Slide

TILE_SIZE = 510  # pixels, without overlap: 512 with it
OVERLAP = 1  # pixels that a tile shares with each neighbour, so that no seam shows
JPEG_QUALITY = 85
CACHED_TILES = 512  # about 50 MB encoded
XML_NAMESPACE = "http://schemas.microsoft.com/deepzoom/2008"


class DeepZoom:
    """The tiles of a slide. Level ``last`` is level 0 of the slide, each level before it half as large."""

    def __init__(self, slide: Slide):
        """Serve ``slide``, whose µm/px must be known; it may be any number where only pixels count."""
        self.height, self.width = slide.shape_level0
        self.last = max(self.height - 1, self.width - 1, 0).bit_length()
        self._slide = slide
        self._cached_tile = lru_cache(CACHED_TILES)(self._encode)

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
        return self._cached_tile(level, column, row)

    def _side(self, side: int, level: int) -> int:
        """Return a side's pixels on a level; a part of a pixel counts."""
        return -(-side // 2 ** (self.last - level))

    def _encode(self, level: int, column: int, row: int) -> bytes:
        box = []
        for index, side in ((row, self.height), (column, self.width)):
            first = max(0, index * TILE_SIZE - OVERLAP)
            box.append((first, min((index + 1) * TILE_SIZE + OVERLAP, self._side(side, level))))
        (top, bottom), (left, right) = box
        pixels = self._read((top, left, bottom, right), 2.0 ** (self.last - level))
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()

    def _read(self, box: tuple[int, int, int, int], scale: float) -> np.ndarray:
        """Read a box of a level, ``scale`` level-0 pixels to a pixel; where the slide rounds down, its edge repeats."""
        assert self._slide.mpp is not None
        mpp = scale * self._slide.mpp
        height, width = self._slide.working_shape(mpp)
        top, left = min(box[0], height - 1), min(box[1], width - 1)
        bottom, right = min(box[2], height), min(box[3], width)
        pixels = self._slide.read((top, left, bottom, right), mpp)
        missing = (box[2] - box[0] - pixels.shape[0], box[3] - box[1] - pixels.shape[1])
        return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
