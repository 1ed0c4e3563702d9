"""The pages of a TIFF that make up its largest image, and whether each can be shown as RGB; for ``TiffReader``."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import tifffile

from dataloader.address import Address
from dataloader.slides.slide import REMEDY_TILED, SlideError, UnsupportedError
from dataloader.slides.tiff_resolution import find_mpp

BITS = {  # a sample's, by what the samples mean
    "RGB": (8, 16),
    "YCBCR": (8,),
    "MINISBLACK": (1, 2, 4, 8, 16),
    "MINISWHITE": (1, 2, 4, 8, 16),
    "PALETTE": (1, 2, 4, 8),
}
SCANNERS = {"scn": "a Leica", "ndpi": "a Hamamatsu", "bif": "a Ventana"}  # tiles overlap, or are not tiles
TRESTLE_SOFTWARE = "MedScan"
TAG_SOFTWARE = 305


def index_pages(path: Path | Address, opened: io.BufferedIOBase) -> tuple[list[Any], float | None]:
    """Return the pages of the largest image, finest first, and µm to a pixel of the first.

    Args:
        path: of the file, for messages.
        opened: the file; closed at the end.

    Raises:
        UnsupportedError: a stack of images, or a scanner's layout that is not a plain grid of tiles.
        SlideError: the list of pages breaks off.
    """
    with opened, tifffile.TiffFile(opened) as file:
        _check_chain(file, path)
        _check_scanner(file, path)
        series = max(
            file.series, key=lambda candidate: candidate.keyframe.imagelength * candidate.keyframe.imagewidth
        )
        for level in series.levels:
            if len(level.pages) != 1:
                raise UnsupportedError(
                    f"{path} is a stack of {len(level.pages)} images, not one RGB image; {REMEDY_TILED}"
                )
        pages = [level.pages[0].aspage() for level in series.levels]
        for page in pages:
            _ = (
                page.decode,
                page.jpegtables,
                page.colormap,
            )  # tifffile makes them at first use, from the open file
        return pages, find_mpp(file, pages[0])


def check_page(page: Any, path: Path | Address, num_bytes: int) -> None:
    """Refuse a page that would be shown wrongly, in part, or not at all.

    Args:
        page: tifffile's.
        path: of the file.
        num_bytes: of the file.

    Raises:
        UnsupportedError: of a kind that is not read.
        SlideError: the file ends early.
    """
    kind = page.photometric.name
    is_counted = page.dtype is not None and page.dtype.kind in "bu"
    if page.bitspersample not in BITS.get(kind, ()) or not is_counted:
        raise UnsupportedError(
            f"{path} holds {page.bitspersample}-bit {kind} samples of type {page.dtype}, not RGB, grey or a "
            f"palette in whole numbers; {REMEDY_TILED}"
        )
    codec = page.compression
    if codec not in tifffile.TIFF.DECOMPRESSORS:
        raise UnsupportedError(f"{path} is compressed by {codec!r}, which is not read; {REMEDY_TILED}")
    if kind == "YCBCR" and codec not in tifffile.TIFF.IMAGE_COMPRESSIONS:
        raise UnsupportedError(f"{path} holds YCbCr colours without JPEG, which is not read; {REMEDY_TILED}")
    num_listed, num_needed = len(page.dataoffsets), count_segments(page) * _count_planes(page)
    if num_listed < num_needed:
        raise SlideError(f"{path} lists {num_listed} of {num_needed} tiles: it is damaged; copy it again")
    last_byte = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
    if last_byte > num_bytes:
        raise SlideError(
            f"{path} has {num_bytes} bytes but its pixels reach to byte {last_byte}: "
            "it ends early; copy it again"
        )


def segment_shape(page: Any) -> tuple[int, int]:
    """Return (height, width) of a tile, or of a strip: as wide as the image, the last one may be lower."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def count_segments(page: Any) -> int:
    """Return how many tiles or strips cover the image; each has a part in every plane."""
    height, width = segment_shape(page)
    return -(-page.imagelength // height) * -(-page.imagewidth // width)


def segment_indices(page: Any, index: int) -> list[int]:
    """Return where the file lists the parts of tile or strip ``index``: one, or one a plane of colour."""
    return [index + plane * count_segments(page) for plane in range(_count_planes(page))]


def _count_planes(page: Any) -> int:
    return page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1


def _check_chain(file: Any, path: Path | Address) -> None:
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


def _check_scanner(file: Any, path: Path | Address) -> None:
    """Refuse a scanner's TIFF whose tiles have to be laid out as only OpenSlide knows."""
    scanner = next((name for flag, name in SCANNERS.items() if getattr(file, f"is_{flag}")), None)
    if str(file.pages[0].tags.valueof(TAG_SOFTWARE, "")).startswith(TRESTLE_SOFTWARE):
        scanner = "a Trestle"
    if scanner is not None:
        raise UnsupportedError(
            f"{path} is {scanner} scanner's TIFF, which OpenSlide lays out (pip install openslide-python "
            f"openslide-bin); or {REMEDY_TILED}"
        )
