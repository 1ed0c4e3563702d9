"""TIFF slides (SVS, tiled and pyramidal TIFF, OME-TIFF): indexed once by tifffile, read tile by tile."""

from __future__ import annotations

import struct
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from dataloader.address import Address, AddressError
from dataloader.slides.pixels import WHITE
from dataloader.slides.slide import REMEDY_TILED, Box, Level, SlideError, UnsupportedError
from dataloader.slides.source import open_source
from dataloader.slides.tiff_pages import (
    check_page,
    count_segments,
    index_pages,
    segment_indices,
    segment_shape,
)
from dataloader.slides.tiff_samples import decode_segment
from dataloader.slides.tile_cache import TileCache

CACHE_BYTES = 2**25  # 32 MiB: 170 tiles of 256² px
# 512 MiB: 2980 rows of a slide 60,000 px wide, so that a row of regions shares them
STRIP_CACHE_BYTES = 2**29
JPEG_START = b"\xff\xd8"
MAX_STRIP_PIXELS = STRIP_CACHE_BYTES // 12  # a quarter of the cache; what has larger strips is held in memory
MAX_HELD_PIXELS = 2**28  # of such a level: 805 MB
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

    Only the tiles that a box shows are read, of a file at an address those of a box together; any number of
    threads read at once, and the tiles used last are kept. Strips are tiles as wide as the image; a level
    whose strips are too large for that (often a single one) is decoded when the file is opened and held.
    Tiles that the file leaves out are white.
    """

    def __init__(self, path: Path | Address):
        """Index ``path``.

        Raises:
            UnsupportedError: a TIFF that is not one RGB, grey or palette image in plain tiles or strips.
            SlideError: not a TIFF, or one that ends early.
            AddressError: it could not be fetched.
        """
        self.path = path
        self._file = open_source(path)
        try:
            pages, self.mpp = self._index()
            self._sources = [self._source(page) for page in pages]
        except (SlideError, AddressError):
            self._file.close()
            raise
        except BROKEN_FILE as error:
            self._file.close()
            raise SlideError(
                f"{path} cannot be read as a TIFF slide: {error}; check that "
                "the file is complete, or copy it again"
            ) from error
        has_tiles = all(page.is_tiled for page in pages)
        self._cache = TileCache(CACHE_BYTES if has_tiles else STRIP_CACHE_BYTES)
        shapes = [(page.imagelength, page.imagewidth) for page in pages]
        self.levels = tuple(Level.of(shape, shapes[0]) for shape in shapes)

    def read_level(self, level: int, box_yxyx: Box) -> np.ndarray:
        """Return (h, w, 3) uint8 RGB of a box inside the level, in its pixels.

        Raises:
            SlideError: a tile cannot be decoded.
            AddressError: it could not be fetched.
        """
        source = self._sources[level]
        top, left, bottom, right = box_yxyx
        if isinstance(source, np.ndarray):
            return source[top:bottom, left:right].copy()
        region = np.empty((bottom - top, right - left, 3), np.uint8)
        places = {index: (y - top, x - left) for index, y, x in _tiles(source, box_yxyx)}
        for index, tile in self._read_tiles(level, source, list(places)):
            _paste(region, tile, places[index])
        return region

    def has_sound_tiles(self, level: int, box_yxyx: Box) -> bool:
        """Return whether all tiles of a box are there and, if JPEG, begin as JPEG does.

        For ``CuCimReader``: cuCIM gives what its memory held for the others, and does not say so.
        """
        page = self._sources[level]
        if isinstance(page, np.ndarray) or not page.is_tiled:
            return False
        for index, _, _ in _tiles(page, box_yxyx):
            if page.databytecounts[index] == 0:
                return False
            start = [(page.dataoffsets[index], len(JPEG_START))]
            is_jpeg = page.compression == tifffile.COMPRESSION.JPEG
            if is_jpeg and self._file.read_ranges(start) != [JPEG_START]:
                return False
        return True

    def close(self) -> None:
        """Close the file; it cannot be read afterwards."""
        self._file.close()
        self._cache.clear()

    def _index(self) -> tuple[list[Any], float | None]:
        opened = self._file.open()
        try:
            return index_pages(self.path, opened)
        finally:
            lost = getattr(opened.raw, "error", None)  # tifffile goes on without what it could not fetch
            if lost is not None:
                raise lost

    def _source(self, page: Any) -> Any:
        """Return what a level is read from: its page, or, where single strips are huge, its pixels."""
        check_page(page, self.path, self._file.num_bytes)
        height, width = segment_shape(page)
        if page.is_tiled or height * width <= MAX_STRIP_PIXELS:
            return page
        if page.imagelength * page.imagewidth > MAX_HELD_PIXELS:
            raise UnsupportedError(
                f"{self.path} has {page.imagelength}x{page.imagewidth} pixels in strips of {height} rows, too many "
                f"to be read in parts, and more than the {MAX_HELD_PIXELS} that are held in memory; {REMEDY_TILED}"
            )
        pixels = np.empty((page.imagelength, page.imagewidth, 3), np.uint8)
        for index in range(count_segments(page)):
            _paste(pixels, self._decode(page, index, self._fetch(page, [index])), (index * height, 0))
        return pixels

    def _read_tiles(self, level: int, page: Any, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield numbers and tiles of a level as (h, w, 3) uint8 RGB, in any order, from the cache where they are there.

        What another thread is decoding is left for the end, and waited for: none is decoded twice.
        """
        while indices:
            waited: dict[int, threading.Event] = {}
            for part in _split(page, indices, self._file.most_bytes):
                waited |= yield from self._read_part(level, page, part)
            for event in waited.values():
                event.wait()
            indices = list(waited)  # what came to nothing there is tried here

    def _read_part(
        self, level: int, page: Any, part: Sequence[int]
    ) -> Generator[tuple[int, np.ndarray], None, dict[int, threading.Event]]:
        """Yield tiles as `_read_tiles` does; return those that other threads are decoding."""
        waited = {}
        claimed: list[int] = []
        try:
            kept = {}
            for index in part:
                found = self._cache.claim((level, index))
                if found is None:
                    claimed.append(index)
                elif isinstance(found, threading.Event):
                    waited[index] = found
                else:
                    kept[index] = found
            data = self._fetch(page, claimed) if claimed else {}
            for index in claimed:
                tile = self._decode(page, index, data)
                self._cache.put((level, index), tile)
                yield index, tile
        finally:
            self._cache.release((level, index) for index in claimed)
        yield from kept.items()
        return waited

    def _fetch(self, page: Any, indices: Sequence[int]) -> dict[int, bytes]:
        """Return the bytes of tiles or strips, each under the number by which the file lists it."""
        listed = [part for index in indices for part in segment_indices(page, index)]
        ranges = [(page.dataoffsets[part], page.databytecounts[part]) for part in listed]
        try:
            return dict(zip(listed, self._file.read_ranges(ranges), strict=True))
        except (OSError, ValueError) as error:  # ValueError: it was closed
            if isinstance(error, (AddressError, FileNotFoundError)):
                raise
            raise SlideError(
                f"{self.path} cannot be read: {error}; check the disk, or copy it again"
            ) from error

    def _decode(self, page: Any, index: int, data: Mapping[int, bytes]) -> np.ndarray:
        """Return tile or strip ``index`` as (h, w, 3) uint8 RGB, white where the file holds none."""
        indices = segment_indices(page, index)
        if any(page.databytecounts[part] == 0 for part in indices):
            return np.full((*segment_shape(page), 3), WHITE, np.uint8)
        try:
            for part in indices:
                if len(data[part]) < page.databytecounts[part]:
                    raise ValueError(f"it ends after {len(data[part])} of {page.databytecounts[part]} bytes")
            return decode_segment(page, indices, [data[part] for part in indices])
        except BROKEN_FILE as error:
            kind = "tile" if page.is_tiled else "strip"
            raise SlideError(
                f"{self.path}: {kind} {index} at byte {page.dataoffsets[index]} cannot be decoded: {error}; "
                "the file is damaged, copy it again"
            ) from error


def _tiles(page: Any, box_yxyx: Box) -> Iterator[tuple[int, int, int]]:
    """Yield number, top and left of each tile or strip that shows some of a box, row by row."""
    top, left, bottom, right = box_yxyx
    height, width = segment_shape(page)
    across = -(-page.imagewidth // width)
    for row in range(top // height, -(-bottom // height)):
        for column in range(left // width, -(-right // width)):
            yield row * across + column, row * height, column * width


def _split(page: Any, indices: Sequence[int], most_bytes: int) -> Iterator[list[int]]:
    """Yield tiles or strips in parts that have so many bytes in the file, or one tile more."""
    part: list[int] = []
    num_bytes = 0
    for index in indices:
        part.append(index)
        num_bytes += sum(page.databytecounts[listed] for listed in segment_indices(page, index))
        if num_bytes >= most_bytes:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part


def _paste(region: np.ndarray, tile: np.ndarray, offset: tuple[int, int]) -> None:
    """Paint onto ``region`` what lies on it of ``tile``, whose corner is at ``offset`` (y, x) of it."""
    target, source = [], []
    for start, size, limit in zip(offset, tile.shape, region.shape, strict=False):
        first, last = max(start, 0), min(start + size, limit)
        target.append(slice(first, last))
        source.append(slice(first - start, last - start))
    region[tuple(target)] = tile[tuple(source)]
