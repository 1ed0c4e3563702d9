"""OME-TIFF of the slide with every nucleus outlined in its type's colour, written while it is predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from models.nuclei import Nuclei
from run_utils.outputs.picture import REACH_PX, draw_nuclei
from run_utils.outputs.pyramid import (
    RGB,
    TILE,
    Box,
    MakeTile,
    completed_rows,
    read_level0,
    row_boxes,
    write_pyramid,
)
from run_utils.outputs.result import SlideResult, StoredResult

EMPTY_CONTRAST = 40  # grey levels between the lightest and the darkest pixel of glass; tissue has more


def write(result: SlideResult, path: Path, *, dots: bool = False) -> None:
    """Write the slide with outlines; the colours of types stand in OME's metadata too.

    Tiles without tissue are not read but enlarged from the thumbnail, where that shows nothing there.

    Args:
        result: what to show.
        path: the file.
        dots: mark each centroid.
    """
    names = {kind.name: "#{:02X}{:02X}{:02X}".format(*kind.colour) for kind in result.types or ()}
    tiles = draw_tiles(result, dots=dots)
    write_pyramid(path, result, tiles=tiles, coding=RGB, channel="overlay", notes=names)


def read(path: Path) -> StoredResult:
    """Read the picture at its full size; only for what fits into memory."""
    return StoredResult(image=read_level0(path))


def draw_tiles(result: SlideResult, *, dots: bool = False) -> Iterator[MakeTile]:
    """Give each tile, row by row, as a function that reads and draws it: (h, w, 3) uint8 RGB.

    Outlines are held until the row of tiles that they end in has been given.
    """
    held: list[Nuclei] = []
    for row, arrived in completed_rows(result.parts(), result.shape[0], REACH_PX):
        held += [_outlines(part.nuclei) for part in arrived if len(part.nuclei)]
        for box in row_boxes(result.shape, row):
            yield partial(_draw_tile, result, box, _near(held, box), dots)
        lowest = (row + 1) * TILE - REACH_PX
        held = [nuclei.select(nuclei.boxes_yxyx[:, 2] > lowest) for nuclei in held]
        held = [nuclei for nuclei in held if len(nuclei)]


def _outlines(nuclei: Nuclei) -> Nuclei:
    """Return what is drawn of nuclei, without the rest."""
    return replace(nuclei, type_shares=None, type_probabilities=None)


def _near(tables: Sequence[Nuclei], box_yxyx: Box) -> Nuclei:
    """Return the nuclei whose lines may show in a box."""
    top, left, bottom, right = box_yxyx
    near = []
    for nuclei in tables:
        boxes = nuclei.boxes_yxyx
        shows = (boxes[:, 0] < bottom + REACH_PX) & (boxes[:, 2] > top - REACH_PX)
        shows &= (boxes[:, 1] < right + REACH_PX) & (boxes[:, 3] > left - REACH_PX)
        if shows.any():
            near.append(nuclei.select(shows))
    return Nuclei.concatenate(near)


def _draw_tile(result: SlideResult, box_yxyx: Box, nuclei: Nuclei, dots: bool) -> np.ndarray:
    """Return a tile with its outlines, drawn beyond its border and cut off there, so that tiles join."""
    if not len(nuclei):
        return _enlarge(result, box_yxyx) if _is_background(result, box_yxyx) else result.read(box_yxyx)
    canvas = cv2.copyMakeBorder(result.read(box_yxyx), *[REACH_PX] * 4, cv2.BORDER_CONSTANT)
    origin = box_yxyx[0] - REACH_PX, box_yxyx[1] - REACH_PX
    draw_nuclei(canvas, nuclei, types=result.types, mpp=result.mpp, dots=dots, origin_yx=origin)
    return canvas[REACH_PX:-REACH_PX, REACH_PX:-REACH_PX]


def _is_background(result: SlideResult, box_yxyx: Box) -> bool:
    """Return whether a box has no tissue, nor anything that its thumbnail shows; what a mask leaves out may."""
    if result.tissue is None or result.thumbnail is None or _window(result.tissue, result, box_yxyx).any():
        return False
    return bool((np.ptp(_window(result.thumbnail, result, box_yxyx), axis=(0, 1)) <= EMPTY_CONTRAST).all())


def _window(small: np.ndarray, result: SlideResult, box_yxyx: Box) -> np.ndarray:
    """Return what a small picture of the slide shows of a box, and a pixel around it."""
    scale = np.array(small.shape[:2]) / result.shape
    top, left = np.maximum(np.floor(box_yxyx[:2] * scale).astype(int) - 1, 0)
    bottom, right = np.ceil(box_yxyx[2:] * scale).astype(int) + 1
    return small[top:bottom, left:right]


def _enlarge(result: SlideResult, box_yxyx: Box) -> np.ndarray:
    """Return a box as the thumbnail shows it, interpolated between its pixels' centres."""
    assert result.thumbnail is not None
    top, left, bottom, right = box_yxyx
    scale_y, scale_x = np.array(result.thumbnail.shape[:2]) / result.shape
    matrix = np.array(
        [
            [scale_x, 0, (left + 0.5) * scale_x - 0.5],
            [0, scale_y, (top + 0.5) * scale_y - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (right - left, bottom - top)
    return cv2.warpAffine(result.thumbnail, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
