"""Results as inference hands them to the writers, made from a label map: what writers' tests share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dataloader.grid import TileGrid
from models.hovernet.describe import describe
from models.nuclei import Nuclei, NucleusType
from run_utils.outputs.result import PackedLabels, Part, SlideResult

TYPES = (
    NucleusType("background", (0, 0, 0)),
    NucleusType("round", (255, 0, 0)),
    NucleusType("wide, with a 'quote' and ü", (0, 200, 255)),
)
HALO = 96


def ellipses(shape: tuple[int, int] = (90, 120), num_nuclei: int = 12) -> np.ndarray:
    """Return a label map of ellipses on a grid, some touching the border."""
    label_map = np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for index in range(num_nuclei):
        row, column = 30 * (index // 4) + 12, 30 * (index % 4) + 10
        inside = ((y - row) / (6 + index % 5)) ** 2 + ((x - column) / (11 - index % 3)) ** 2 <= 1
        label_map[inside & (label_map == 0)] = index + 1
    return label_map


def make_result(
    label_map: np.ndarray,
    *,
    name: str = "tile 1",
    types: tuple[NucleusType, ...] | None = TYPES,
    mpp: float | None = 0.25,
    level0_scale: float = 1.0,
    region_size: int = 4096,
    image: np.ndarray | None = None,
) -> SlideResult:
    """Return the result whose nuclei are those of a label map, in parts of one region each; ids may change.

    The nuclei are of types 1 and 2 in turns, by the label map's value; ``types=None`` gives none.
    """
    if image is None:
        image = np.random.default_rng(0).integers(100, 255, (*label_map.shape, 3), np.uint8)
    parts = make_parts(label_map, has_types=types is not None, region_size=region_size)
    return SlideResult(
        name=name,
        shape=label_map.shape,
        read=lambda box: image[box[0] : box[2], box[1] : box[3]],
        parts=lambda: iter(parts),
        mpp=mpp,
        level0_scale=level0_scale,
        types=types,
        thumbnail=image[::2, ::2],
        tissue=label_map[::2, ::2] > 0,
    )


def make_parts(label_map: np.ndarray, *, has_types: bool, region_size: int) -> list[Part]:
    """Return a label map's nuclei as regions own them."""
    votes = None
    if has_types:
        votes = np.full((3, *label_map.shape), 0.25, np.float32)
        votes[1:] = np.where(label_map % 2 == 0, 0.125, 0.625), np.where(label_map % 2 == 0, 0.625, 0.125)
    nuclei = describe(label_map, votes)
    grid = TileGrid(label_map.shape, region_size, HALO)
    return list(_own(label_map, nuclei, grid))


def _own(label_map: np.ndarray, nuclei: Nuclei, grid: TileGrid) -> Iterator[Part]:
    owner = grid.owner(nuclei.centroids)
    num_nuclei = 0
    for region in grid.regions:
        mine = nuclei.select(owner == region.index)
        table = np.zeros(len(nuclei) + 1, np.int32)
        table[mine.ids] = np.arange(1, len(mine) + 1)
        is_last = region.index == len(grid) - 1
        following = None if is_last else grid.region(region.index + 1)
        yield Part(
            mine.renumber(num_nuclei + 1),
            PackedLabels.pack(table[label_map], (0, 0)),
            grid.shape[0] if following is None else max(0, following.core_yxyx[0] - HALO),
        )
        num_nuclei += len(mine)
