"""Maps of boxes from tiles that each come once: the same as cut from the whole, of any dtype and kind, little kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dataloader.grid import Box, TileGrid
from dataloader.lattice import TileLattice, lay_tiles
from dataloader.tissue import Tissue
from models.hovernet.geometry import hovernet_geometry
from run_utils.inference.assembly import Assembly, Piece, mark_tiles, order_tiles
from run_utils.inference.predictors import Maps, ProbabilityMaps

SHAPE = (431, 367)
FAST = hovernet_geometry("fast")


def assemble(lattice: TileLattice, boxes: list[Box], tissue: Tissue | None, whole: ProbabilityMaps):
    """Yield each box's maps and the pieces that are kept then; tiles are cut from ``whole``, padded by a window."""
    assembly = Assembly(boxes, None if whole.types is None else len(whole.types))
    marked = mark_tiles(lattice, boxes, tissue, reach=0)
    seen = set()
    for number, new in enumerate(order_tiles(lattice, boxes, marked)):
        for needed in new:
            assert needed.tile not in seen
            seen.add(needed.tile)
            top, left, bottom, right = needed.tile.output_yxyx
            tile = [None if maps is None else maps[..., top:bottom, left:right] for maps in whole]
            assembly.add(needed, ProbabilityMaps(*tile))
        maps = assembly.finish(number)
        yield maps, [piece for pieces in assembly.kept.values() for piece in pieces]
    assert len(seen) == marked.sum()


def make_maps(lattice: TileLattice, dtypes: tuple[type, type], num_types: int | None) -> ProbabilityMaps:
    rng = np.random.default_rng(0)
    shape = (SHAPE[0] + lattice.rows.window, SHAPE[1] + lattice.columns.window)
    nuclei, hv = rng.integers(0, 255, shape), rng.normal(size=(2, *shape))
    types = None if num_types is None else rng.integers(0, 255, (num_types, *shape)).astype(dtypes[0])
    return ProbabilityMaps(nuclei.astype(dtypes[0]), hv.astype(dtypes[1]), types)


def make_boxes(kind: str) -> list[Box]:
    rng = np.random.default_rng(2)
    if kind == "regions":
        return [region.box_yxyx for region in TileGrid(SHAPE, 100, 24, (40, 36)).regions]
    corners = [sorted(rng.integers(0, size + 1, 2)) for _ in range(15) for size in SHAPE]
    spans = [(int(start), int(stop) + (start == stop)) for start, stop in corners]
    pairs = zip(spans[::2], spans[1::2], strict=True)
    return [(y[0], x[0], y[1], x[1]) for y, x in pairs if y[1] <= SHAPE[0] and x[1] <= SHAPE[1]]


@pytest.mark.parametrize("kind", ["regions", "any boxes"])
@pytest.mark.parametrize("window", [132, 180, 1000])
@pytest.mark.parametrize("dtypes", [(np.float32, np.float32), (np.uint8, np.float16)])
@pytest.mark.parametrize("is_torch", [False, True])
def test_box_maps_are_those_of_the_whole(kind: str, window: int, dtypes, is_torch: bool) -> None:
    lattice = lay_tiles(SHAPE, FAST, window)
    maps = make_maps(lattice, dtypes, 3 if is_torch else None)
    with torch.inference_mode():  # as networks give them
        whole = ProbabilityMaps._make(
            torch.as_tensor(array).clone() if is_torch and array is not None else array for array in maps
        )
    boxes = make_boxes(kind)
    assert len(boxes) > 10
    for box, (found, _) in zip(boxes, assemble(lattice, boxes, None, whole), strict=True):
        for array, expected in zip(found, maps, strict=True):
            if expected is None:
                assert array is None
                continue
            assert isinstance(array, torch.Tensor) == is_torch
            np.testing.assert_array_equal(array, expected[..., box[0] : box[2], box[1] : box[3]])
            assert np.asarray(array).dtype == expected.dtype


def test_away_from_tissue_maps_are_zero_and_tiles_are_left_out() -> None:
    mask = np.zeros((10, 10), bool)
    mask[4:6, 0] = mask[9, 9] = True
    tissue = Tissue(SHAPE, mask)
    lattice = lay_tiles(SHAPE, FAST, 132)
    whole = make_maps(lattice, (np.float32, np.float32), 2)
    boxes = make_boxes("regions")
    expected = np.zeros(SHAPE, np.float32)
    for place in np.ndindex(lattice.shape):
        top, left, bottom, right = lattice.tile(*place).keep_yxyx
        if tissue.touches(np.array([[top, left, bottom, right]]))[0]:
            expected[top:bottom, left:right] = whole.nuclei[top:bottom, left:right]
    assert 0 < np.count_nonzero(expected) < expected.size / 4
    for box, (found, _) in zip(boxes, assemble(lattice, boxes, tissue, whole), strict=True):
        np.testing.assert_array_equal(found.nuclei, expected[box[0] : box[2], box[1] : box[3]])
        assert found.hv.shape == (2, *found.nuclei.shape) == found.types[:2].shape


def count_pixels(pieces: list[Piece]) -> int:
    for piece in pieces:
        for array in piece.maps:
            assert array is None or is_alone(array)
    return sum(piece.maps.nuclei.size for piece in pieces)


def is_alone(array: Maps) -> bool:
    return isinstance(array, np.ndarray) and array.base is None


@pytest.mark.parametrize("height", [1000, 4000])
def test_strips_of_two_halos_are_kept_along_a_row_of_regions_however_tall_the_slide(height: int) -> None:
    shape, halo = (height, 900), 16
    lattice = lay_tiles(shape, FAST, 172, largest_step=160)
    grid = TileGrid(shape, 160, halo, lattice.steps)
    boxes = [region.box_yxyx for region in grid.regions]
    whole = ProbabilityMaps(
        np.zeros((height + 200, 1100), np.float32), np.zeros((2, height + 200, 1100), np.float32), None
    )
    kept = [count_pixels(pieces) for _, pieces in assemble(lattice, boxes, None, whole)]
    # its ends are kept for both regions that meet there
    strip = 2 * halo * (shape[1] + 2 * halo * grid.num_columns)
    beside = 2 * halo * (160 + 2 * halo)
    assert strip / 2 < max(kept) <= strip + beside
    assert kept[-1] == 0
