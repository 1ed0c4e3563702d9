"""Maps of boxes put together from tiles that each come once; of a tile, only what later boxes need is kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from dataloader.grid import Box
from dataloader.lattice import Tile, TileLattice
from dataloader.tissue import Tissue
from run_utils.inference.predictors import Maps, ProbabilityMaps


class Needed(NamedTuple):
    """A tile and the boxes that need it.

    Attributes:
        tile: to predict.
        boxes: numbers of the boxes that it has pixels of, in order.
    """

    tile: Tile
    boxes: list[int]


class Piece(NamedTuple):
    """What a tile has of a box.

    Attributes:
        box_yxyx: where it lies in the image.
        maps: over all of ``box_yxyx``.
    """

    box_yxyx: Box
    maps: ProbabilityMaps


def mark_tiles(
    lattice: TileLattice, boxes_yxyx: Sequence[Box], tissue: Tissue | None, reach: int
) -> np.ndarray:
    """Return which tiles are to be predicted: those that boxes need, within ``reach`` px of tissue.

    Returns:
        bool of the lattice's shape.
    """
    marked = np.zeros(lattice.shape, bool)
    for top, left, bottom, right in map(lattice.range_of, boxes_yxyx):
        marked[top:bottom, left:right] = True
    if tissue is not None:
        marked[marked] = tissue.touches(lattice.keep_boxes(np.argwhere(marked)), reach=reach)
    return marked


def order_tiles(
    lattice: TileLattice, boxes_yxyx: Sequence[Box], marked: np.ndarray
) -> Iterator[list[Needed]]:
    """Give for each box the tiles that no box before it needs, row by row; each marked tile comes once."""
    left_over = marked.copy()
    ranges = np.array([lattice.range_of(box) for box in boxes_yxyx]).reshape(-1, 4)
    for number, (top, left, bottom, right) in enumerate(ranges.tolist()):
        new = np.argwhere(left_over[top:bottom, left:right]) + (top, left)
        left_over[top:bottom, left:right] = False
        others = ranges[number:]
        is_near = (others[:, :2] < (bottom, right)).all(1) & (others[:, 2:] > (top, left)).all(1)
        near = np.flatnonzero(is_near) + number
        starts, stops = ranges[near, :2], ranges[near, 2:]
        yield [
            Needed(
                lattice.tile(*place.tolist()),
                near[((starts <= place) & (place < stops)).all(1)].tolist(),
            )
            for place in new
        ]


class Assembly:
    """Puts the maps of boxes together, one box after another.

    Arrays are of the dtype and kind, NumPy or torch on a device, of the tiles' maps.

    Attributes:
        kept: pieces of tiles that boxes to come need, by the number of the box.
    """

    def __init__(self, boxes_yxyx: Sequence[Box], num_types: int | None) -> None:
        self.kept: defaultdict[int, list[Piece]] = defaultdict(list)
        self._boxes = boxes_yxyx
        self._num_types = num_types
        self._maps: ProbabilityMaps | None = None

    def add(self, needed: Needed, maps: ProbabilityMaps) -> None:
        """Take a tile's maps, (h, w), (2, h, w) and (T, h, w); the first box that needs it is the one in work."""
        for number in needed.boxes:
            part = _intersect(self._boxes[number], needed.tile.keep_yxyx)
            inner = (..., *_slices(part, needed.tile.output_yxyx))
            piece = Piece(part, _each(maps, itemgetter(inner)))
            if number == needed.boxes[0]:
                self._paste(number, piece)
            else:
                self.kept[number].append(Piece(part, _each(piece.maps, _copy)))

    def finish(self, number: int) -> ProbabilityMaps:
        """Return the maps of a box whose tiles have come: (h, w), (2, h, w), (T, h, w); zero where there was none."""
        for piece in self.kept.pop(number, ()):
            self._paste(number, piece)
        maps = self._maps or self._no_maps(number)
        self._maps = None
        return maps

    def _paste(self, number: int, piece: Piece) -> None:
        box = self._boxes[number]
        if self._maps is None:
            self._maps = _each(piece.maps, lambda array: _zeros(array, _shape(box)))
        rows, columns = _slices(piece.box_yxyx, box)
        arrays: Iterator[tuple[Any, Any]] = zip(self._maps, piece.maps, strict=True)
        for whole, part in arrays:
            if whole is not None:
                whole[..., rows, columns] = part

    def _no_maps(self, number: int) -> ProbabilityMaps:
        """Return the maps of a box without tiles, which nothing gives a dtype and kind."""
        shape, num_types = _shape(self._boxes[number]), self._num_types
        types = None if num_types is None else np.zeros((num_types, *shape), np.float32)
        return ProbabilityMaps(np.zeros(shape, np.float32), np.zeros((2, *shape), np.float32), types)


def _each(maps: ProbabilityMaps, function: Callable[[Any], Any]) -> ProbabilityMaps:
    """Return what a function makes of each array."""
    return ProbabilityMaps._make(None if array is None else function(array) for array in maps)


def _zeros(like: Maps, shape: tuple[int, int]) -> Maps:
    """Return zeros of an array's dtype and kind, the last two axes of another shape."""
    whole = (*like.shape[:-2], *shape)
    return like.new_zeros(whole) if isinstance(like, Tensor) else np.zeros(whole, like.dtype)


def _copy(array: Maps) -> Maps:
    """Return an array that holds on to no other."""
    return array.clone() if isinstance(array, Tensor) else array.copy()


def _shape(box_yxyx: Box) -> tuple[int, int]:
    return box_yxyx[2] - box_yxyx[0], box_yxyx[3] - box_yxyx[1]


def _intersect(box_yxyx: Box, other_yxyx: Box) -> Box:
    top, left = max(box_yxyx[0], other_yxyx[0]), max(box_yxyx[1], other_yxyx[1])
    return top, left, min(box_yxyx[2], other_yxyx[2]), min(box_yxyx[3], other_yxyx[3])


def _slices(box_yxyx: Box, frame_yxyx: Box) -> tuple[slice, slice]:
    """Return ``box_yxyx`` as (rows, columns) of an array that covers ``frame_yxyx``."""
    top, left = frame_yxyx[:2]
    return slice(box_yxyx[0] - top, box_yxyx[2] - top), slice(box_yxyx[1] - left, box_yxyx[3] - left)
