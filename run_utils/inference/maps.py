"""Tiles read ahead, predicted in batches and put together to the maps of boxes; the pipeline decodes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, islice, tee
from typing import TypeVar

import numpy as np
import torch

from dataloader.grid import Box
from dataloader.slides import read_mirrored
from dataloader.tissue import Tissue
from run_utils.inference.assembly import Assembly, mark_tiles, order_tiles
from run_utils.inference.monitor import Monitor
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import Predictor, ProbabilityMaps
from run_utils.inference.triton_predictor import find_server

Read = Callable[[Box], np.ndarray]
BATCHES_AHEAD = 2  # read while one is predicted: enough to hide a slow tile, little to hold

Item = TypeVar("Item")


def predict_region(
    read: Read, shape: tuple[int, int], box_yxyx: Box, predictor: Predictor, plan: Plan
) -> ProbabilityMaps:
    """Predict the maps of one box of the image; see `predict_boxes`."""
    with closing(predict_boxes(read, shape, [box_yxyx], predictor, plan)) as boxes:
        return next(boxes)


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
    """Predict the maps of boxes, one after another, while threads read and predict what comes next.

    Tiles lie on one lattice over the image, so that a pixel's maps do not depend on the box; each is predicted
    once, and what later boxes need of it is kept until then. The image continues by mirroring where a window
    leaves it. Tiles farther than ``plan.halo`` from tissue are neither read nor predicted: no nucleus that tissue
    holds reaches there. Their maps are zero.

    Args:
        read: gives (h, w, 3) uint8 RGB for a half-open box within the image; called from threads.
        shape: (H, W) of the image in pixels.
        boxes_yxyx: half-open boxes within the image, not empty.
        predictor: gives the maps; called from ``plan.predict_workers`` threads.
        plan: how to cut up the image.
        tissue: where to look; None for everywhere.
        monitor: counts tiles and seconds.

    Yields:
        for each box maps without a batch axis: nuclei (h, w), hv (2, h, w), types (T, h, w) or None.
    """
    monitor = monitor or Monitor()
    boxes = list(boxes_yxyx)
    lattice = plan.lay_tiles(shape, predictor.geometry)
    marked = mark_tiles(lattice, boxes, tissue, plan.halo)
    order, order_ahead = tee(order_tiles(lattice, boxes, marked))
    windows = (needed.tile.input_yxyx for needed in chain.from_iterable(order_ahead))
    read_window = partial(read_mirrored, read, shape)
    assembly = Assembly(boxes, predictor.num_types)
    with closing(_predict_windows(windows, read_window, predictor, plan, monitor)) as predicted:
        for number, new in enumerate(order):
            for needed in new:
                maps = next(predicted)
                with monitor.stage("assemble"):
                    assembly.add(needed, maps)
            with monitor.stage("assemble"):
                box_maps = assembly.finish(number)
            yield box_maps
            del box_maps  # held by its receiver alone


def count_tiles(
    shape: tuple[int, int],
    boxes_yxyx: Iterable[Box],
    predictor: Predictor,
    plan: Plan,
    tissue: Tissue | None,
) -> int:
    """Return how many tiles `predict_boxes` will predict."""
    lattice = plan.lay_tiles(shape, predictor.geometry)
    return int(mark_tiles(lattice, list(boxes_yxyx), tissue, plan.halo).sum())


def _predict_windows(
    windows_yxyx: Iterator[Box], read: Read, predictor: Predictor, plan: Plan, monitor: Monitor
) -> Generator[ProbabilityMaps, None, None]:
    """Yield each window's maps, without a batch axis, in order, while threads work on the batches after it."""

    def read_window(window_yxyx: Box) -> np.ndarray:
        with monitor.stage("read"):
            return read(window_yxyx)

    def predict(tiles: np.ndarray) -> ProbabilityMaps:
        with monitor.stage("predict"):
            return predictor.predict(tiles)

    with (
        _threads(plan.read_workers, "read") as readers,
        _threads(plan.predict_workers, "predict") as workers,
        _giving_up(predictor),
    ):
        reading = (
            [readers.submit(read_window, window) for window in batch]
            for batch in _batch(windows_yxyx, plan.batch_size)
        )
        predicting = (
            (len(batch), workers.submit(predict, _stack(batch, monitor, size)))
            for batch, size in _sized(_ahead(reading, BATCHES_AHEAD), predictor.device)
        )
        for num_tiles, batch in _ahead(predicting, plan.predict_workers):
            maps = batch.result()
            monitor.count_tiles(num_tiles)
            for index in range(num_tiles):
                yield ProbabilityMaps._make(None if array is None else array[index] for array in maps)


def _stack(reading: Sequence[Future[np.ndarray]], monitor: Monitor, size: int) -> np.ndarray:
    """Return tiles as an array of ``size``; where they are fewer, the last one fills it."""
    with monitor.stage("wait for reading"):
        tiles = [tile.result() for tile in reading]
    return np.stack([*tiles, *tiles[-1:] * (size - len(tiles))])


def _sized(batches: Iterator[list[Item]], device: torch.device) -> Iterator[tuple[list[Item], int]]:
    """Give batches and the sizes to predict them in: on a GPU, whose kernels are chosen for one, that of the first."""
    first = 0
    for batch in batches:
        first = first or len(batch)
        yield batch, first if device.type == "cuda" else len(batch)


def _batch(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Give items in lists of ``size``; the last may be shorter."""
    return iter(lambda: list(islice(items, size)), [])


def _ahead(items: Iterator[Item], count: int) -> Iterator[Item]:
    """Give items in order, each once ``count`` more have been taken."""
    taken: deque[Item] = deque()
    for item in items:
        taken.append(item)
        if len(taken) > count:
            yield taken.popleft()
    while taken:
        yield taken.popleft()


@contextmanager
def _giving_up(predictor: Predictor) -> Iterator[None]:
    """Where something ends the prediction early, such as Ctrl-C, do not wait for a server that may be away."""
    try:
        yield
    except BaseException:
        if (server := find_server(predictor)) is not None:
            server.give_up()
        raise


@contextmanager
def _threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Give threads; at the end what runs is waited for, and what waits is dropped."""
    executor = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
