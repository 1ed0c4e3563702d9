"""TIFF slides (SVS, tiled and pyramidal TIFF, OME-TIFF): indexed once by tifffile, read tile by tile."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from dataloader.slides.pixels import WHITE
from dataloader.slides.slide import REMEDY_TILED, Box, Level, SlideError, UnsupportedError
from dataloader.slides.tiff_pages import check_page, count_segments, index_pages, segment_indices
from dataloader.slides.tiff_samples import decode_segment
from dataloader.slides.tile_cache import TileCache

CACHE_BYTES = 2**25  # 32 MiB: 170 tiles of 256² px
JPEG_START = b"\xff\xd8"
MAX_UNTILED_PIXELS = 2**30  # a level without tiles is held in memory, 3 bytes a pixel
BROKEN_FILE = (
    tifffile.TiffFileError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    RuntimeError,
    OSError,
    struct.error,
)


class TiffReader:
    """A TIFF's largest image and its pyramid.

    Tiles are read with ``os.pread``, which shares no file position, and decoded one by one, so that any
    number of threads read at once; those used last are kept. A level without tiles (strips) is decoded whole
    when the file is opened and kept. Tiles that the file leaves out are white.
    """

    def __init__(self, path: Path):
        """Index ``path``.

        Raises:
            UnsupportedError: a TIFF that is not one RGB, grey or palette image in plain tiles or strips.
            SlideError: not a TIFF, or one that ends early.
        """
        self.path = path
        self._cache = TileCache(CACHE_BYTES)
        self._file = path.open("rb", buffering=0)
        try:
            pages, self.mpp = index_pages(path)
            self._sources = [self._source(page) for page in pages]
        except SlideError:
            self._file.close()
            raise
        except BROKEN_FILE as error:
            self._file.close()
            raise SlideError(
                f"{path} cannot be read as a TIFF slide: {error}; check that "
                "the file is complete, or copy it again"
            ) from error
        shapes = [(page.imagelength, page.imagewidth) for page in pages]
        self.levels = tuple(Level.of(shape, shapes[0]) for shape in shapes)

    def read_level(self, level: int, box_yxyx: Box) -> np.ndarray:
        """Return (h, w, 3) uint8 RGB of a box inside the level, in its pixels.

        Raises:
            SlideError: a tile cannot be decoded.
        """
        source = self._sources[level]
        top, left, bottom, right = box_yxyx
        if isinstance(source, np.ndarray):
            return source[top:bottom, left:right].copy()
        region = np.empty((bottom - top, right - left, 3), np.uint8)
        for index, y, x in _tiles(source, box_yxyx):
            _paste(region, self._read_tile(level, source, index), (y - top, x - left))
        return region

    def has_sound_tiles(self, level: int, box_yxyx: Box) -> bool:
        """Return whether all tiles of a box are there and, if JPEG, begin as JPEG does.

        For ``CuCimReader``: cuCIM gives what its memory held for the others, and does not say so.
        """
        page = self._sources[level]
        if isinstance(page, np.ndarray):
            return False
        for index, _, _ in _tiles(page, box_yxyx):
            if page.databytecounts[index] == 0:
                return False
            if page.compression == tifffile.COMPRESSION.JPEG:
                start = os.pread(self._file.fileno(), len(JPEG_START), page.dataoffsets[index])
                if start != JPEG_START:
                    return False
        return True

    def close(self) -> None:
        """Close the file; it cannot be read afterwards."""
        self._file.close()
        self._cache.clear()

    def _source(self, page: Any) -> Any:
        """Return what a level is read from: the page for one with tiles, else its pixels."""
        check_page(page, self.path, os.fstat(self._file.fileno()).st_size)
        if page.is_tiled:
            return page
        if page.imagelength * page.imagewidth > MAX_UNTILED_PIXELS:
            raise UnsupportedError(
                f"{self.path} has {page.imagelength}x{page.imagewidth} pixels without tiles, more than the "
                f"{MAX_UNTILED_PIXELS} that are held in memory; {REMEDY_TILED}"
            )
        pixels = np.empty((page.imagelength, page.imagewidth, 3), np.uint8)
        for index in range(count_segments(page)):
            _paste(pixels, self._decode(page, index), (index * page.rowsperstrip, 0))
        return pixels

    def _read_tile(self, level: int, page: Any, index: int) -> np.ndarray:
        """Return tile ``index`` of a level as (h, w, 3) uint8 RGB, from the cache where it is there."""
        tile = self._cache.get((level, index))
        if tile is None:
            tile = self._decode(page, index)
            self._cache.put((level, index), tile)
        return tile

    def _decode(self, page: Any, index: int) -> np.ndarray:
        """Return tile or strip ``index`` as (h, w, 3) uint8 RGB, white where the file holds none."""
        indices = segment_indices(page, index)
        if any(page.databytecounts[part] == 0 for part in indices):
            sides = (
                (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
            )
            return np.full((*sides, 3), WHITE, np.uint8)
        try:
            return decode_segment(page, indices, [self._read_bytes(page, part) for part in indices])
        except BROKEN_FILE as error:
            raise SlideError(
                f"{self.path}: tile {index} at byte {page.dataoffsets[index]} cannot be decoded: {error}; "
                "the file is damaged, copy it again"
            ) from error

    def _read_bytes(self, page: Any, index: int) -> bytes:
        offset, num_bytes = page.dataoffsets[index], page.databytecounts[index]
        data = os.pread(self._file.fileno(), num_bytes, offset)
        if len(data) < num_bytes:
            raise ValueError(f"it ends after {len(data)} of {num_bytes} bytes")
        return data


def _tiles(page: Any, box_yxyx: Box) -> Iterator[tuple[int, int, int]]:
    """Yield number, top and left of each tile that shows some of a box, row by row."""
    top, left, bottom, right = box_yxyx
    across = -(-page.imagewidth // page.tilewidth)
    for row in range(top // page.tilelength, -(-bottom // page.tilelength)):
        for column in range(left // page.tilewidth, -(-right // page.tilewidth)):
            yield row * across + column, row * page.tilelength, column * page.tilewidth


def _paste(region: np.ndarray, tile: np.ndarray, offset: tuple[int, int]) -> None:
    """Paint onto ``region`` what lies on it of ``tile``, whose corner is at ``offset`` (y, x) of it."""
    target, source = [], []
    for start, size, limit in zip(offset, tile.shape, region.shape, strict=False):
        first, last = max(start, 0), min(start + size, limit)
        target.append(slice(first, last))
        source.append(slice(first - start, last - start))
    region[tuple(target)] = tile[tuple(source)]
