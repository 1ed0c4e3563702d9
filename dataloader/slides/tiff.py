"""TIFF slides (SVS, tiled and pyramidal TIFF, OME-TIFF): indexed once by tifffile, read tile by tile."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from dataloader.slides.pixels import WHITE, as_rgb
from dataloader.slides.slide import Box, Level, SlideError
from dataloader.slides.tiff_resolution import find_mpp

MAX_UNTILED_PIXELS = 2**30  # a level without tiles is held in memory, 3 bytes a pixel
REMEDY_TILED = (
    "write it as a tiled RGB pyramid, e.g. vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
)
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
    number of threads read at once. A level without tiles (strips) is decoded whole when the file is opened
    and kept. Tiles that the file leaves out are white.
    """

    def __init__(self, path: Path):
        """Index ``path``.

        Raises:
            SlideError: not a TIFF, one that ends early, or one that is not an RGB or grey image of 8 or 16
                bits.
        """
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            pages, self.mpp = _index(path)
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
            return source[top:bottom, left:right]
        region = np.full((bottom - top, right - left, 3), WHITE, np.uint8)
        for row in range(top // source.tilelength, -(-bottom // source.tilelength)):
            for column in range(left // source.tilewidth, -(-right // source.tilewidth)):
                self._paste_tile(region, (top, left), source, (row, column))
        return region

    def close(self) -> None:
        """Close the file; it cannot be read afterwards."""
        self._file.close()

    def _source(self, page: Any) -> Any:
        """Return what a level is read from: the page for one with tiles, else its pixels."""
        _check_layout(page, self.path, os.fstat(self._file.fileno()).st_size)
        if page.is_tiled:
            return page
        if page.imagelength * page.imagewidth > MAX_UNTILED_PIXELS:
            raise SlideError(
                f"{self.path} has {page.imagelength}x{page.imagewidth} pixels without tiles, more than the "
                f"{MAX_UNTILED_PIXELS} that are held in memory; {REMEDY_TILED}"
            )
        return self._read_segments(page)

    def _read_segments(self, page: Any) -> np.ndarray:
        """Return a page made of strips as (H, W, 3) uint8 RGB."""
        pixels = np.full((page.imagelength, page.imagewidth, 3), WHITE, np.uint8)
        for index in range(len(page.dataoffsets)):
            strip = self._decode(page, index)
            if strip is not None:
                top = index * page.rowsperstrip
                pixels[top : top + page.rowsperstrip] = strip[: page.imagelength - top]
        return pixels

    def _paste_tile(
        self, region: np.ndarray, origin: tuple[int, int], page: Any, cell: tuple[int, int]
    ) -> None:
        """Paint what tile ``cell`` (row, column) shows of ``region``, which starts at ``origin``."""
        tiles_across = -(-page.imagewidth // page.tilewidth)
        tile = self._decode(page, cell[0] * tiles_across + cell[1])
        if tile is None:
            return
        offset = (cell[0] * page.tilelength - origin[0], cell[1] * page.tilewidth - origin[1])
        target, source = [], []
        for start, size, limit in zip(offset, tile.shape, region.shape, strict=False):
            first, last = max(start, 0), min(start + size, limit)
            target.append(slice(first, last))
            source.append(slice(first - start, last - start))
        region[tuple(target)] = tile[tuple(source)]

    def _decode(self, page: Any, index: int) -> np.ndarray | None:
        """Return tile or strip ``index`` as (h, w, 3) uint8 RGB, None where the file holds none."""
        offset, num_bytes = page.dataoffsets[index], page.databytecounts[index]
        if num_bytes == 0:
            return None
        try:
            data = os.pread(self._file.fileno(), num_bytes, offset)
            samples = page.decode(data, index, jpegtables=page.jpegtables)[0][0]
        except BROKEN_FILE as error:
            raise SlideError(
                f"{self.path}: tile {index} at byte {offset} cannot be decoded: {error}; "
                "the file is damaged, copy it again"
            ) from error
        return _as_rgb(samples, page)


def _index(path: Path) -> tuple[list[Any], float | None]:
    """Return the pages of the largest image, finest first, and µm to a pixel of the first."""
    with tifffile.TiffFile(path) as file:
        _check_chain(file, path)
        series = max(
            file.series, key=lambda candidate: candidate.keyframe.imagelength * candidate.keyframe.imagewidth
        )
        for level in series.levels:
            if len(level.pages) != 1:
                raise SlideError(
                    f"{path} is a stack of {len(level.pages)} images, not one RGB image; {REMEDY_TILED}"
                )
        pages = [level.pages[0].aspage() for level in series.levels]
        for page in pages:
            _ = page.decode, page.jpegtables  # tifffile makes both at first use, from the open file
        return pages, find_mpp(file, pages[0])


def _check_chain(file: Any, path: Path) -> None:
    """Refuse a file whose list of images breaks off: tifffile reads on with those that are left."""
    if not len(file.pages):
        raise SlideError(f"{path} cannot be read as a TIFF slide: its first image is missing; copy it again")
    layout, last = file.tiff, file.pages[-1]
    file.filehandle.seek(last.offset)
    (num_tags,) = struct.unpack(layout.tagnoformat, file.filehandle.read(layout.tagnosize))
    file.filehandle.seek(last.offset + layout.tagnosize + num_tags * layout.tagsize)
    (next_offset,) = struct.unpack(layout.offsetformat, file.filehandle.read(layout.offsetsize))
    if next_offset:
        raise SlideError(
            f"{path} has {file.filehandle.size} bytes but goes on at byte {next_offset}: "
            "it ends early; copy it again"
        )


def _check_layout(page: Any, path: Path, num_bytes: int) -> None:
    """Refuse a page that would be shown wrongly or not at all."""
    kind = page.photometric.name
    if kind not in ("RGB", "YCBCR", "MINISBLACK", "MINISWHITE") or page.bitspersample not in (8, 16):
        raise SlideError(
            f"{path} holds {page.bitspersample}-bit {kind} samples, not RGB or grey; {REMEDY_TILED}"
        )
    if page.samplesperpixel > 1 and page.planarconfig != tifffile.PLANARCONFIG.CONTIG:
        raise SlideError(f"{path} keeps its colours in separate planes, which is not read; {REMEDY_TILED}")
    last_byte = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
    if last_byte > num_bytes:
        raise SlideError(
            f"{path} has {num_bytes} bytes but its pixels reach to byte {last_byte}: "
            "it ends early; copy it again"
        )


def _as_rgb(samples: np.ndarray, page: Any) -> np.ndarray:
    """Return a decoded (h, w, S) segment as (h, w, 3) uint8 RGB."""
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        samples = np.iinfo(samples.dtype).max - samples
    num_colours = 1 if page.photometric.name.startswith("MINIS") else 3
    extra = page.extrasamples[0] if page.extrasamples else tifffile.EXTRASAMPLE.UNSPECIFIED
    if extra == tifffile.EXTRASAMPLE.UNSPECIFIED:
        return as_rgb(samples[..., :num_colours])
    return as_rgb(samples[..., : num_colours + 1], is_premultiplied=extra == tifffile.EXTRASAMPLE.ASSOCALPHA)
