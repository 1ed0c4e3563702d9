"""Pyramidal, tiled OME-TIFF of a slide's size, written tile by tile: what overlay and label are kept in."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from os import SEEK_END
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import cv2
import imagecodecs
import numpy as np
import tifffile

from run_utils.outputs.result import Part, SlideResult

TILE = 512  # px; even, so that a tile's halves meet those of its neighbours on the next level
NUM_THREADS = 2  # beside those of inference
SPOOLED_BYTES = 2**24  # of the lower levels held in memory, before they go to a file
JPEG_QUALITY = 80
DEFLATE_LEVEL = 4
PACKED = 1  # zstd level of halves that wait for their neighbours
UM_PER_CM = 1e4

Box = tuple[int, int, int, int]
Cell = tuple[int, int]
MakeTile = Callable[[], np.ndarray]


@dataclass(frozen=True)
class TileCoding:
    """How the tiles of a pyramid are stored.

    Attributes:
        tags: of every level, as tifffile calls them.
        dtype: of a pixel's samples.
        samples: shape of a pixel: (3,) for RGB, () for ids.
        axes: OME's names of the axes.
        encode: makes a file's bytes of a tile of full size.
        halve: makes a tile's part of the next level: (h, w) gives (⌈h / 2⌉, ⌈w / 2⌉).
    """

    tags: dict[str, Any]
    dtype: np.dtype
    samples: tuple[int, ...]
    axes: str
    encode: Callable[[np.ndarray], bytes]
    halve: Callable[[np.ndarray], np.ndarray]


def write_pyramid(
    path: Path,
    result: SlideResult,
    *,
    tiles: Iterable[MakeTile],
    coding: TileCoding,
    channel: str,
    notes: dict[str, str] | None = None,
    num_threads: int = NUM_THREADS,
) -> None:
    """Write level 0 as its tiles come, then the lower levels, each half the one above, down to a single tile.

    A few tiles are held, and of each lower level a row of half tiles, compressed; what is finished of the
    lower levels waits in a temporary file.

    Args:
        path: the file, BigTIFF with the lower levels as SubIFDs.
        result: whose shape, µm/px and name the file bears.
        tiles: makes each tile of level 0, row by row, cut off where the slide ends; called from threads.
        coding: `RGB`, `LABELS` or `rgb_coding(quality)`.
        channel: name of the channel.
        notes: further names and values for OME's metadata.
        num_threads: how many make and encode tiles of level 0.
    """
    shapes = level_shapes(result.shape)
    metadata = _metadata(result, coding, channel, notes or {})

    def write_level(file: tifffile.TiffWriter, level: int, encoded: Iterator[bytes], **more: Any) -> None:
        if result.mpp is not None:
            per_cm = UM_PER_CM / (result.mpp * 2**level)
            more |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
        shape = (*shapes[level], *coding.samples)
        file.write(encoded, shape=shape, dtype=coding.dtype, tile=(TILE, TILE), **coding.tags, **more)

    with (
        SpooledTemporaryFile(SPOOLED_BYTES, dir=str(path.parent)) as spool,
        tifffile.TiffWriter(path, bigtiff=True, byteorder="<", ome=True) as file,
    ):
        lower = _LowerLevels(shapes, coding, spool)
        with closing(_encode_level0(tiles, lower, num_threads)) as encoded:
            write_level(file, 0, encoded, subifds=len(shapes) - 1, metadata=metadata)
        for level in range(1, len(shapes)):
            write_level(file, level, lower.encoded(level), subfiletype=1)


def read_level0(path: Path) -> np.ndarray:
    """Return level 0 whole, (H, W) or (H, W, 3); only for what fits into memory."""
    with tifffile.TiffFile(path) as file:
        return file.pages[0].asarray()


def level_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (height, width) of each level: halved, rounded up, until it fits into a tile."""
    shapes = [shape]
    while max(shapes[-1]) > TILE:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def row_boxes(shape: tuple[int, int], row: int) -> list[Box]:
    """Return the half-open boxes of a row of tiles, from left to right, cut off where the slide ends."""
    top, bottom = row * TILE, min((row + 1) * TILE, shape[0])
    return [(top, left, bottom, min(left + TILE, shape[1])) for left in range(0, shape[1], TILE)]


def completed_rows(parts: Iterator[Part], height: int, reach: int = 0) -> Iterator[tuple[int, list[Part]]]:
    """Give each row of tiles as soon as no later part can show in it.

    Args:
        parts: of a result; asked for no more than a row needs.
        height: of the slide in pixels.
        reach: how far a part shows beyond its pixels, in pixels.

    Returns:
        The row's index, and the parts that came since the row above.
    """
    complete_to: float = 0
    for row in range(-(-height // TILE)):
        arrived = []
        while complete_to < min((row + 1) * TILE + reach, height):
            part = next(parts, None)
            complete_to = math.inf if part is None else part.complete_to
            if part is not None:
                arrived.append(part)
        yield row, arrived


def _metadata(result: SlideResult, coding: TileCoding, channel: str, notes: dict[str, str]) -> dict[str, Any]:
    """Return what OME's header says of the image, as tifffile takes it; its UUID tells neither time nor machine."""
    identity = uuid5(NAMESPACE_URL, f"{result.name} {result.shape} {result.mpp} {channel}")
    metadata: dict[str, Any] = {"axes": coding.axes, "Name": result.name, "Channel": {"Name": [channel]}}
    metadata["UUID"] = f"urn:uuid:{identity}"
    if result.mpp is not None:
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": result.mpp, f"PhysicalSize{axis}Unit": "µm"}
    return {**metadata, "MapAnnotation": notes} if notes else metadata


def _encode_level0(
    tiles: Iterable[MakeTile], lower: _LowerLevels, num_threads: int
) -> Generator[bytes, None, None]:
    """Give the tiles of level 0 encoded, in order; threads make a few of them ahead."""
    ahead: deque[Future[tuple[bytes, np.ndarray]]] = deque()
    threads = ThreadPoolExecutor(num_threads, thread_name_prefix="tile")

    def finish() -> bytes:
        encoded, half = ahead.popleft().result()
        lower.add_half(half)
        return encoded

    try:
        for make_tile in tiles:
            ahead.append(threads.submit(_make_and_encode, make_tile, lower.coding))
            if len(ahead) > num_threads:
                yield finish()
        while ahead:
            yield finish()
    finally:
        threads.shutdown(cancel_futures=True)


def _make_and_encode(make_tile: MakeTile, coding: TileCoding) -> tuple[bytes, np.ndarray]:
    tile = make_tile()
    return _encode_full(tile, coding), coding.halve(tile)


def _encode_full(tile: np.ndarray, coding: TileCoding) -> bytes:
    """Encode a tile; one that is cut off is filled up with its last pixels, which no reader shows."""
    missing = [(0, TILE - side) for side in tile.shape[:2]]
    if missing != [(0, 0), (0, 0)]:
        tile = np.pad(tile, [*missing, *[(0, 0)] * (tile.ndim - 2)], mode="edge")
    return coding.encode(tile)


class _LowerLevels:
    """The levels below level 0: a tile is made as soon as the four above it are there.

    Args:
        shapes: (height, width) of each level, level 0 first.
        coding: of the tiles.
        spool: file for encoded tiles.
    """

    def __init__(self, shapes: list[tuple[int, int]], coding: TileCoding, spool: SpooledTemporaryFile[bytes]):
        self.coding = coding
        self._shapes = shapes
        self._spool = spool
        self._num_added = 0
        self._halves: list[dict[Cell, tuple[tuple[int, ...], bytes]]] = [{} for _ in shapes]
        self._places: list[list[tuple[int, int]]] = [[] for _ in shapes]  # offset and bytes in the spool

    def add_half(self, half: np.ndarray) -> None:
        """Take the half of the next tile of level 0; they come row by row."""
        cell = divmod(self._num_added, -(-self._shapes[0][1] // TILE))
        self._num_added += 1
        level = 1
        while level < len(self._shapes):
            self._halves[level][cell] = half.shape, imagecodecs.zstd_encode(half.tobytes(), level=PACKED)
            cell = cell[0] // 2, cell[1] // 2
            tile = self._join(level, cell)
            if tile is None:
                return
            self._store(level, _encode_full(tile, self.coding))
            half = self.coding.halve(tile)
            level += 1

    def encoded(self, level: int) -> Iterator[bytes]:
        """Give the tiles of a level, row by row."""
        for offset, num_bytes in self._places[level]:
            self._spool.seek(offset)
            yield self._spool.read(num_bytes)

    def _join(self, level: int, cell: Cell) -> np.ndarray | None:
        """Return tile `cell` of a level if all of its quarters are there, which are then let go."""
        above = [-(-side // TILE) for side in self._shapes[level - 1]]
        rows, columns = (range(2 * at, min(2 * at + 2, num)) for at, num in zip(cell, above, strict=True))
        quarters = [(row, column) for row in rows for column in columns]
        if any(quarter not in self._halves[level] for quarter in quarters):
            return None
        height, width = (
            min(TILE, side - at * TILE) for side, at in zip(self._shapes[level], cell, strict=True)
        )
        tile = np.empty((height, width, *self.coding.samples), self.coding.dtype)
        for row, column in quarters:
            shape, data = self._halves[level].pop((row, column))
            top, left = (row % 2) * TILE // 2, (column % 2) * TILE // 2
            pixels = np.frombuffer(imagecodecs.zstd_decode(data), self.coding.dtype).reshape(shape)
            tile[top : top + shape[0], left : left + shape[1]] = pixels
        return tile

    def _store(self, level: int, encoded: bytes) -> None:
        offset = self._spool.seek(0, SEEK_END)
        self._spool.write(encoded)
        self._places[level].append((offset, len(encoded)))


def rgb_coding(quality: int) -> TileCoding:
    """Return `RGB` at another quality of JPEG, 1..100."""
    return dataclasses.replace(RGB, encode=partial(_encode_jpeg, quality=quality))


def _encode_jpeg(tile: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """Encode RGB with all of its colour: where it is thinned out, thin lines lose theirs."""
    return imagecodecs.jpeg8_encode(
        tile, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling=(1, 1)
    )


def _halve_by_mean(tile: np.ndarray) -> np.ndarray:
    height, width = tile.shape[:2]
    if height % 2 or width % 2:
        tile = cv2.copyMakeBorder(tile, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return cv2.resize(tile, (tile.shape[1] // 2, tile.shape[0] // 2), interpolation=cv2.INTER_AREA)


def _encode_deflate(tile: np.ndarray) -> bytes:
    return imagecodecs.deflate_encode(tile.tobytes(), DEFLATE_LEVEL) if tile.any() else _EMPTY_TILE


def _halve_by_choice(tile: np.ndarray) -> np.ndarray:
    return tile[::2, ::2]


_EMPTY_TILE: bytes = imagecodecs.deflate_encode(bytes(TILE * TILE * np.int32().itemsize), DEFLATE_LEVEL)

RGB = TileCoding(
    {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (1, 1)},
    np.dtype(np.uint8),
    (3,),
    "YXS",
    _encode_jpeg,
    _halve_by_mean,
)
LABELS = TileCoding(
    {"compression": "adobe_deflate", "photometric": "minisblack"},
    np.dtype(np.int32),
    (),
    "YX",
    _encode_deflate,
    _halve_by_choice,
)
