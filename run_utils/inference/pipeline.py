"""One image or slide: regions, tiles, maps, nuclei; each stair returns its result in its caller's frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict

import numpy as np
from tqdm import tqdm

from dataloader.grid import Box, Region, Tile, TileGrid, cut_tiles
from dataloader.slides import Slide, read_mirrored
from models.hovernet.postprocess import decode
from models.nuclei import Nuclei
from run_utils.inference.predictors import Predictor, ProbabilityMaps

CPU_WINDOW = 1024  # px; larger ones gain little and take memory: a side of 1024 needs 3 GiB with `fast`
GPU_WINDOW = 2048

Read = Callable[[Box], np.ndarray]


class DecodeOptions(TypedDict, total=False):
    """Keyword arguments of `decode`; those left out keep its defaults."""

    normalisation: str
    nuclei_threshold: float
    marker_threshold: float
    min_size: int
    gradient_range: tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """How an image is cut up and decoded.

    Attributes:
        window: largest side of the network's input in pixels.
        batch_size: windows that the network takes at once.
        region_size: largest side of what is decoded at once, in pixels.
        halo: pixels around a region that are decoded with it.
        is_exact: use windows of exactly `window` pixels.
        decoding: further arguments of `decode`, such as `normalisation`.
    """

    window: int = CPU_WINDOW
    batch_size: int = 1
    region_size: int = 2048
    halo: int = 96
    is_exact: bool = False
    decoding: DecodeOptions = field(default_factory=DecodeOptions)


def infer_slide(
    slide: Slide, predictor: Predictor, plan: Plan, *, mpp: float | None = None
) -> tuple[np.ndarray, Nuclei]:
    """Find the nuclei of an image or slide, its border included.

    Args:
        slide: what to read.
        predictor: gives the maps.
        plan: how to cut it up.
        mpp: working resolution in µm/px; None for level 0 as it is.

    Returns:
        label map (H, W) int32 at the working resolution and its nuclei, ids 1…K in both.
    """
    shape = slide.working_shape(mpp)
    return infer_image(partial(slide.read, mpp=mpp), shape, predictor, plan)


def infer_image(
    read: Read, shape: tuple[int, int], predictor: Predictor, plan: Plan
) -> tuple[np.ndarray, Nuclei]:
    """Find the nuclei of anything that can be read box by box.

    Args:
        read: gives (h, w, 3) uint8 RGB for a half-open box within the image.
        shape: (H, W) of the image in pixels.
        predictor: gives the maps.
        plan: how to cut it up.

    Returns:
        label map (H, W) int32 and its nuclei, ids 1…K in both.
    """
    grid = TileGrid(shape, plan.region_size, plan.halo)
    label_map = np.zeros(shape, np.int32)
    parts: list[Nuclei] = []
    num_nuclei = 0
    bar = tqdm(grid.regions, total=len(grid), unit="region", leave=False, disable=len(grid) == 1)
    for region in bar:
        region_labels, nuclei = infer_region(read, grid, region, predictor, plan)
        parts.append(nuclei.renumber(num_nuclei + 1))
        _paint(label_map, region_labels, nuclei.ids, parts[-1].ids, region.box_yxyx)
        num_nuclei += len(nuclei)
    return label_map, Nuclei.concatenate(parts)


def infer_region(
    read: Read, grid: TileGrid, region: Region, predictor: Predictor, plan: Plan
) -> tuple[np.ndarray, Nuclei]:
    """Decode a region and keep the nuclei it owns: those whose centroid lies in its core.

    Returns:
        label map of the region's box, all its nuclei, and the table of the owned ones in the image's
        frame with their ids in that label map.
    """
    maps = predict_region(read, grid.shape, region.box_yxyx, predictor, plan)
    label_map, nuclei = decode(maps.nuclei, maps.hv, maps.types, **plan.decoding)
    nuclei = nuclei.shift(region.box_yxyx[:2])
    return label_map, nuclei.select(grid.owner(nuclei.centroids) == region.index)


def predict_region(
    read: Read, shape: tuple[int, int], box_yxyx: Box, predictor: Predictor, plan: Plan
) -> ProbabilityMaps:
    """Predict the maps of a box of the image; the image continues by mirroring where a window leaves it.

    Returns:
        maps without a batch axis: nuclei (h, w), hv (2, h, w), types (T, h, w) or None.
    """
    height, width = box_yxyx[2] - box_yxyx[0], box_yxyx[3] - box_yxyx[1]
    num_types = predictor.num_types
    region = ProbabilityMaps(
        np.empty((height, width), np.float32),
        np.empty((2, height, width), np.float32),
        None if num_types is None else np.empty((num_types, height, width), np.float32),
    )
    tiles = cut_tiles(box_yxyx, predictor.geometry, plan.window, is_exact=plan.is_exact)
    for batch in _batched(tiles, plan.batch_size):
        pixels = np.stack([read_mirrored(read, shape, tile.input_yxyx) for tile in batch])
        _paste(region, predictor.predict(pixels), batch, box_yxyx)
    return region


def _paste(region: ProbabilityMaps, maps: ProbabilityMaps, tiles: Sequence[Tile], box_yxyx: Box) -> None:
    for index, tile in enumerate(tiles):
        into, out = tile.region_slices(box_yxyx), tile.output_slices
        for whole, part in zip(region, maps, strict=True):
            if whole is not None and part is not None:
                whole[(..., *into)] = part[(index, ..., *out)]


def _paint(
    label_map: np.ndarray, part: np.ndarray, old_ids: np.ndarray, new_ids: np.ndarray, box_yxyx: Box
) -> None:
    """Write the pixels of a region's own nuclei into the image's label map, under their new ids."""
    table = np.zeros(part.max(initial=0) + 1, np.int32)
    table[old_ids] = new_ids
    window = label_map[box_yxyx[0] : box_yxyx[2], box_yxyx[1] : box_yxyx[3]]
    renamed = table[part]
    np.copyto(window, renamed, where=(renamed > 0) & (window == 0))


def _batched(tiles: Sequence[Tile], size: int) -> Iterator[Sequence[Tile]]:
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]
