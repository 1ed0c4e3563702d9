"""Tiles read ahead, predicted in batches and put together to the maps of a region; the pipeline decodes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from dataloader.grid import Box, Tile, cut_tiles
from dataloader.slides import read_mirrored
from dataloader.tissue import Tissue
from run_utils.inference.monitor import Monitor
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import Predictor, ProbabilityMaps

Read = Callable[[Box], np.ndarray]
BATCHES_AHEAD = 2  # read while one is predicted: enough to hide a slow tile, little to hold


class _Batch(NamedTuple):
    box_yxyx: Box
    tiles: list[Tile]
    is_last: bool  # of its box


def predict_region(
    read: Read, shape: tuple[int, int], box_yxyx: Box, predictor: Predictor, plan: Plan
) -> ProbabilityMaps:
    """Predict the maps of one box of the image; see `predict_boxes`."""
    return next(predict_boxes(read, shape, [box_yxyx], predictor, plan))


def predict_boxes(
    read: Read,
    shape: tuple[int, int],
    boxes_yxyx: Iterable[Box],
    predictor: Predictor,
    plan: Plan,
    *,
    tissue: Tissue | None = None,
    monitor: Monitor | None = None,
) -> Generator[ProbabilityMaps, None, None]:
    """Predict the maps of boxes, one after another, while threads read what comes next.

    The image continues by mirroring where a window leaves it. Tiles farther than ``plan.halo`` from tissue are
    neither read nor predicted: no nucleus that tissue holds reaches there. Their maps are zero.

    Args:
        read: gives (h, w, 3) uint8 RGB for a half-open box within the image; called from threads.
        shape: (H, W) of the image in pixels.
        boxes_yxyx: half-open boxes within the image, not empty.
        predictor: gives the maps.
        plan: how to cut up the boxes.
        tissue: where to look; None for everywhere.
        monitor: counts tiles and seconds.

    Yields:
        for each box maps without a batch axis: nuclei (h, w), hv (2, h, w), types (T, h, w) or None.
    """
    monitor = monitor or Monitor()

    def read_tile(tile: Tile) -> np.ndarray:
        with monitor.stage("read"):
            return read_mirrored(read, shape, tile.input_yxyx)

    batches = _plan_batches(boxes_yxyx, predictor, plan, tissue)
    readers = ThreadPoolExecutor(plan.read_workers, thread_name_prefix="read")
    try:
        maps: ProbabilityMaps | None = None
        for batch, tiles in _read_ahead(batches, read_tile, readers):
            maps = maps or _empty_maps(batch.box_yxyx, predictor.num_types)
            if tiles:
                with monitor.stage("wait for reading"):
                    pixels = np.stack([tile.result() for tile in tiles])
                with monitor.stage("predict"):
                    _paste(maps, predictor.predict(pixels), batch.tiles, batch.box_yxyx)
                monitor.count_tiles(len(tiles))
            if batch.is_last:
                yield maps
                maps = None
    finally:
        readers.shutdown(cancel_futures=True)


def count_tiles(boxes_yxyx: Iterable[Box], predictor: Predictor, plan: Plan, tissue: Tissue | None) -> int:
    """Return how many tiles `predict_boxes` will predict."""
    return sum(len(batch.tiles) for batch in _plan_batches(boxes_yxyx, predictor, plan, tissue))


def _plan_batches(
    boxes_yxyx: Iterable[Box], predictor: Predictor, plan: Plan, tissue: Tissue | None
) -> Iterator[_Batch]:
    for box in boxes_yxyx:
        tiles = cut_tiles(box, predictor.geometry, plan.window, is_exact=plan.is_exact)
        if tissue is not None:
            is_near = tissue.touches(np.array([tile.keep_yxyx for tile in tiles]), reach=plan.halo)
            tiles = [tile for tile, near in zip(tiles, is_near, strict=True) if near]
        starts = range(0, max(len(tiles), 1), plan.batch_size)  # one empty batch where no tile is left
        for start in starts:
            yield _Batch(box, tiles[start : start + plan.batch_size], start == starts[-1])


def _read_ahead(
    batches: Iterator[_Batch], read_tile: Callable[[Tile], np.ndarray], readers: ThreadPoolExecutor
) -> Iterator[tuple[_Batch, list[Future[np.ndarray]]]]:
    """Yield batches with their tiles' pixels to come, some batches after they were asked for."""
    ahead: deque[tuple[_Batch, list[Future[np.ndarray]]]] = deque()
    for batch in batches:
        ahead.append((batch, [readers.submit(read_tile, tile) for tile in batch.tiles]))
        if len(ahead) > BATCHES_AHEAD:
            yield ahead.popleft()
    yield from ahead


def _empty_maps(box_yxyx: Box, num_types: int | None) -> ProbabilityMaps:
    height, width = box_yxyx[2] - box_yxyx[0], box_yxyx[3] - box_yxyx[1]
    return ProbabilityMaps(
        np.zeros((height, width), np.float32),
        np.zeros((2, height, width), np.float32),
        None if num_types is None else np.zeros((num_types, height, width), np.float32),
    )


def _paste(region: ProbabilityMaps, maps: ProbabilityMaps, tiles: Sequence[Tile], box_yxyx: Box) -> None:
    for index, tile in enumerate(tiles):
        into, out = tile.region_slices(box_yxyx), tile.output_slices
        for whole, part in zip(region, maps, strict=True):
            if whole is not None and part is not None:
                whole[(..., *into)] = part[(index, ..., *out)]
