"""OME-TIFF of nuclei's ids at the slide's own size, 0 background, written while the slide is predicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from run_utils.outputs.pyramid import (
    LABELS,
    TILE,
    Box,
    Cell,
    MakeTile,
    completed_rows,
    read_level0,
    row_boxes,
    write_pyramid,
)
from run_utils.outputs.result import PackedLabels, Part, SlideResult, StoredResult


def write(result: SlideResult, path: Path) -> None:
    """Write the label map, int32; level k holds every 2^k-th pixel, so that each is an id of a nucleus or 0."""
    write_pyramid(path, result, tiles=_make_tiles(result), coding=LABELS, channel="nucleus id")


def read(path: Path) -> StoredResult:
    """Read the label map whole; only for what fits into memory."""
    return StoredResult(label_map=read_level0(path))


def _make_tiles(result: SlideResult) -> Iterator[MakeTile]:
    """Give each tile, row by row; what waits for its row is cut into tiles and compressed."""
    waiting: defaultdict[Cell, list[PackedLabels]] = defaultdict(list)
    for row, arrived in completed_rows(result.parts(), result.shape[0]):
        for part in arrived:
            for cell, piece in _cut(part):
                waiting[cell].append(piece)
        for column, box in enumerate(row_boxes(result.shape, row)):
            yield partial(_join, box, waiting.pop((row, column), []))


def _cut(part: Part) -> Iterator[tuple[Cell, PackedLabels]]:
    """Cut a part along the tiles' borders; tiles without a nucleus are left out."""
    top, left, bottom, right = part.labels.box_yxyx
    label_map = part.label_map()
    for row in range(top // TILE, -(-bottom // TILE)):
        for column in range(left // TILE, -(-right // TILE)):
            y, x = max(row * TILE, top), max(column * TILE, left)
            piece = label_map[y - top : (row + 1) * TILE - top, x - left : (column + 1) * TILE - left]
            packed = PackedLabels.pack(piece, (y, x))
            if packed.data:
                yield (row, column), packed


def _join(box_yxyx: Box, pieces: list[PackedLabels]) -> np.ndarray:
    """Paint a tile; of two pieces the first keeps its pixels, as in `paint_labels`."""
    top, left, bottom, right = box_yxyx
    tile = np.zeros((bottom - top, right - left), np.int32)
    for piece in pieces:
        box = piece.box_yxyx
        target = tile[box[0] - top : box[2] - top, box[1] - left : box[3] - left]
        np.copyto(target, piece.unpack(), where=target == 0)
    return tile
