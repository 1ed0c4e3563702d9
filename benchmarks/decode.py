"""Print how long decoding takes, ours and one nucleus after another: ``python -m benchmarks.decode``.

Then how many regions a second one thread, two threads and two processes decode, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple

import cv2
import numpy as np
import torch

from benchmarks.figures import Figure, state
from benchmarks.plain import plain_label_map, plain_nuclei
from benchmarks.timing import median_ms
from models.hovernet.postprocess import NORMALISATIONS, decode
from models.hovernet.targets import make_targets
from models.nuclei import Nuclei

MPP = 0.25
NUCLEI_PER_MM2 = 5000  # a million on the 200 mm² of tissue of a large section
RADIUS = 14.0  # px: 7 µm across
RATE_SIZE = 2240  # px: a region with its halo
NUM_REGIONS = 4
WORKERS = 2
PLAIN = "one nucleus after another"
ASKED = "at least 10 times"

Maps = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Probability of nucleus, HV maps, probability of each type: what `decode` takes."""


def main() -> None:
    """Decode 2048x2048 maps of 4096 touching nuclei with five types in both ways, and compare the nuclei."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="height and width, pixels")
    parser.add_argument("--rows", type=int, default=64, help="nuclei along each side")
    parser.add_argument("--repeats", type=int, default=3, help="runs that a median is of")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)  # as inference runs it
    probability, hv, types = touching_nuclei(arguments.size, arguments.rows)

    def plain() -> np.ndarray:
        label_map = plain_label_map(probability, hv)
        plain_nuclei(label_map, types.argmax(axis=0))
        return label_map

    plain_ms, expected = median_ms(plain, arguments.repeats)
    what = f"decode, {arguments.size}², {len(np.unique(expected)) - 1} touching nuclei"
    for normalisation in NORMALISATIONS:
        run = partial(decode, probability, hv, types, normalisation)
        ours_ms, (label_map, nuclei) = median_ms(run, arguments.repeats)
        is_same = same_nuclei(label_map, expected)
        if normalisation == "reference" and not is_same:
            raise SystemExit("the reference mode's nuclei differ from those found one after another")
        note = "the same nuclei" if is_same else f"{len(nuclei)} nuclei"
        state(
            Figure(
                f"{what}: {normalisation}, {note}", ours_ms / 1000, "s", plain_ms / 1000, PLAIN, asked=ASKED
            )
        )
    levels = np.rint(probability * 255).astype(np.uint8), np.rint(types * 255).astype(np.uint8)
    run = partial(decode, levels[0], hv.astype(np.float16), levels[1])
    small_ms, (_, nuclei) = median_ms(run, arguments.repeats)
    state(Figure(f"{what}: small maps, {len(nuclei)} nuclei", small_ms / 1000, "s"))
    print_rates(arguments.repeats)


def print_rates(repeats: int) -> None:
    """Print regions a second, and seconds a mm², as dense as a slide of a million nuclei on 200 mm²."""
    rows = round(RATE_SIZE * MPP / 1000 * NUCLEI_PER_MM2**0.5)
    maps = touching_nuclei(RATE_SIZE, rows, radius=RADIUS)
    mm2 = (RATE_SIZE * MPP / 1000) ** 2
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        ways: dict[str, Callable[[], list[int]]] = {
            "1 thread": stack.enter_context(threads(maps, 1)),
            f"{WORKERS} threads": stack.enter_context(threads(maps, WORKERS)),
            f"{WORKERS} processes": stack.enter_context(processes(maps, WORKERS)),
        }
        counts = {way: run() for way, run in ways.items()}  # not timed: processes start, memory is touched
        for _ in range(repeats):
            for way, run in ways.items():
                start = time.perf_counter()
                run()
                rates.setdefault(way, []).append(NUM_REGIONS / (time.perf_counter() - start))
    if len({tuple(count) for count in counts.values()}) > 1:
        raise SystemExit(f"threads and processes find other nuclei: {counts}")
    what = f"decode regions of {RATE_SIZE}², {counts['1 thread'][0] / mm2:,.0f} nuclei/mm², at {MPP} µm/px"
    medians = {way: statistics.median(measured) for way, measured in rates.items()}
    for way, rate in medians.items():
        other = None if way == "1 thread" else medians["1 thread"]
        state(Figure(f"{what}: {way}", rate, "regions/s", other, "1 thread", is_rate=True))
    state(Figure(f"{what}: {WORKERS} threads", 1 / medians[f"{WORKERS} threads"] / mm2, "s/mm²"))


@contextmanager
def threads(maps: Maps, workers: int) -> Iterator[Callable[[], list[int]]]:
    """Give what decodes regions side by side in threads, and returns how many nuclei each has."""
    with ThreadPoolExecutor(workers) as pool:
        yield lambda: list(pool.map(lambda _: len(decode(*maps)[1]), range(NUM_REGIONS)))


@contextmanager
def processes(maps: Maps, workers: int) -> Iterator[Callable[[], list[int]]]:
    """Give the same in processes: maps and label maps lie in shared memory, the tables come back pickled."""
    with ExitStack() as stack:
        shared = tuple(stack.enter_context(sharing(map_)) for map_ in maps)
        empty = np.zeros(maps[0].shape, np.int32)
        label_maps = [stack.enter_context(sharing(empty)) for _ in range(NUM_REGIONS)]
        pool = stack.enter_context(ProcessPoolExecutor(workers, get_context("spawn")))
        yield lambda: [len(nuclei) for nuclei in pool.map(partial(decode_in_process, shared), label_maps)]


class Shared(NamedTuple):
    """Where an array lies that processes share.

    Attributes:
        name: of the shared memory.
        shape: of the array.
        dtype: of the array, by name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def view(self, memory: SharedMemory) -> np.ndarray:
        """Return the array in the memory of that name."""
        return np.ndarray(self.shape, self.dtype, memory.buf)


@contextmanager
def sharing(array: np.ndarray) -> Iterator[Shared]:
    """Copy an array into shared memory, for as long as the context lasts."""
    memory = SharedMemory(create=True, size=array.nbytes)
    shared = Shared(memory.name, array.shape, array.dtype.name)
    shared.view(memory)[...] = array
    try:
        yield shared
    finally:
        memory.close()
        memory.unlink()


open_shared = cache(SharedMemory)  # once in each process
second_thread = cache(partial(ThreadPoolExecutor, 1))


def decode_in_process(maps: tuple[Shared, ...], label_map: Shared) -> Nuclei:
    """Decode maps in shared memory, in a process of a pool; write the label map beside them.

    In a thread: of a main thread glibc takes back what large arrays held, and gives it anew, page by page.
    """
    return second_thread().submit(decode_shared, maps, label_map).result()


def decode_shared(maps: tuple[Shared, ...], label_map: Shared) -> Nuclei:
    """Do that in the thread that it is called from."""
    cv2.setNumThreads(1)
    probability, hv, types, labels = (part.view(open_shared(part.name)) for part in (*maps, label_map))
    labels[...], nuclei = decode(probability, hv, types)
    return nuclei


def touching_nuclei(size: int, rows: int, seed: int = 0, radius: float | None = None) -> Maps:
    """Return the maps of ``rows`` x ``rows`` ellipses, HV a little noisy.

    All of them touch; or, of a ``radius`` in pixels, pairs do.
    """
    rng = np.random.default_rng(seed)
    pitch = size / rows
    label_map = np.zeros((size, size), np.int32)
    for number in range(rows**2):
        centre = (np.array(divmod(number, rows)) + 0.5) * pitch
        if radius is not None:
            centre[1] += (pitch / 2 - radius) * (1 if number % 2 == 0 else -1)
        radii = (pitch / 2 if radius is None else radius) * rng.uniform(0.85, 1.1, 2)
        low = np.maximum(np.floor(centre - radii), 0).astype(int)
        high = np.minimum(np.ceil(centre + radii) + 1, size).astype(int)
        y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
        is_inside = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1
        window = label_map[low[0] : high[0], low[1] : high[1]]
        window[is_inside & (window == 0)] = number + 1
    targets = make_targets(torch.from_numpy(label_map)[None])
    hv = targets.hv[0].numpy() + rng.normal(scale=0.05, size=(2, size, size)).astype(np.float32)
    types = rng.dirichlet(np.ones(5), (size, size)).astype(np.float32)
    return targets.nuclei[0].numpy().astype(np.float32), hv, np.ascontiguousarray(types.transpose(2, 0, 1))


def same_nuclei(first: np.ndarray, second: np.ndarray) -> bool:
    """Say whether two label maps hold the same nuclei, whatever their ids."""
    pairs = np.unique(first.ravel().astype(np.int64) * (int(second.max()) + 1) + second.ravel())
    return len(pairs) == len(np.unique(first)) == len(np.unique(second))


if __name__ == "__main__":
    main()
