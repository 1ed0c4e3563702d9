"""Write a million nuclei in parts through every table format: time, bytes and memory, beside the plain way.

    python -m benchmarks.outputs --nuclei 1000000

Each format is written in a process of its own; what its memory grows by is read every 20 ms. The plain way holds
one dictionary of all nuclei and gives it to `json.dump`: it is run with fewer nuclei and scaled up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import psutil

from benchmarks.figures import Figure, state
from models.hovernet.describe import describe
from models.nuclei import Nuclei, NucleusType
from run_utils.outputs import WRITERS, PackedLabels, Part, SlideResult, default_colours

IMAGE_EXTENSIONS = (".png", ".ome.tif")
PLAIN = "plain json"
PART_NUCLEI = 2000
NUM_DRAWINGS = 16  # parts that differ; then they are repeated
PITCH = 44  # pixels from one nucleus to the next
COLUMNS = 50
PART_SHAPE = (PART_NUCLEI // COLUMNS * PITCH, COLUMNS * PITCH)
SEMI_AXES = (8, 15)  # pixels: 4 to 7.5 µm across at 0.25 µm/px
NUM_TYPES = 5
SAMPLE_SECONDS = 0.02
MB = 1e6


class Figures(NamedTuple):
    """What writing took: seconds by the clock and of the CPU, bytes on disk, bytes by which memory grew."""

    seconds: float
    cpu_seconds: float
    size: float
    memory: float


def main() -> None:
    """Measure, and print a line a format."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nuclei", type=int, default=1_000_000)
    parser.add_argument("--plain-nuclei", type=int, default=50_000, help="of the plain way")
    parser.add_argument("--formats", nargs="*", default=table_formats(), help="rows of WRITERS")
    arguments = parser.parse_args()
    plain = in_own_process(PLAIN, arguments.plain_nuclei)
    factor = arguments.nuclei / arguments.plain_nuclei
    print(f"{arguments.nuclei} nuclei in parts of {PART_NUCLEI}; {psutil.cpu_count()} CPU cores")
    print("format             s     CPU s  CPU µs a nucleus  MB on disk  MB memory  plain way's CPU time")
    scaled = Figures(*(figure * factor for figure in plain))
    print_row(PLAIN, scaled, arguments.nuclei, f"scaled up from {arguments.plain_nuclei} nuclei")
    measured = {}
    for name in arguments.formats:
        measured[name] = in_own_process(name, arguments.nuclei)
        ratio = scaled.cpu_seconds / measured[name].cpu_seconds
        print_row(name, measured[name], arguments.nuclei, f"{ratio:.1f} times")
    for name, figures in measured.items():
        state_figures(name, figures, scaled, arguments.nuclei)


def state_figures(name: str, figures: Figures, plain: Figures, num_nuclei: int) -> None:
    """State what a format takes, beside the plain way."""
    what, way = f"{num_nuclei:,} nuclei as {name}", "one dictionary, json.dump"
    each, plain_each = (1e6 * side.cpu_seconds / num_nuclei for side in (figures, plain))
    state(Figure(f"{what}, CPU time", each, "µs a nucleus", plain_each, way))
    state(Figure(f"{what}, memory", figures.memory / MB, "MB", plain.memory / MB, way))


def print_row(name: str, figures: Figures, num_nuclei: int, note: str) -> None:
    """Print one format's figures."""
    each = 1e6 * figures.cpu_seconds / num_nuclei
    print(
        f"{name:12}{figures.seconds:8.1f}{figures.cpu_seconds:10.1f}{each:18.1f}{figures.size / MB:12.1f}"
        f"{figures.memory / MB:11.1f}  {note}"
    )


def table_formats() -> list[str]:
    """Return the rows of WRITERS that are neither pictures nor held whole."""
    return [
        name for name, row in WRITERS.items() if not row.is_whole and row.extension not in IMAGE_EXTENSIONS
    ]


def in_own_process(name: str, num_nuclei: int) -> Figures:
    """Return the figures of one format, measured in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_format, (name, num_nuclei))


def measure_format(name: str, num_nuclei: int) -> Figures:
    """Return the same, in this process."""
    write: Callable[[SlideResult, Path], None] = write_plain if name == PLAIN else WRITERS[name].write
    warm_up, result = make_result(PART_NUCLEI), make_result(num_nuclei)
    with tempfile.TemporaryDirectory() as folder:
        write(warm_up, Path(folder) / "warm_up")
        path = Path(folder) / "file"
        start, cpu_start = time.perf_counter(), time.process_time()
        with peak_memory() as growth:
            write(result, path)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        return Figures(seconds, cpu_seconds, path.stat().st_size, growth[0])


def make_result(num_nuclei: int) -> SlideResult:
    """Return a slide of ellipses on a grid, whose parts are made one at a time from the same drawing."""
    rng = np.random.default_rng(0)
    drawings = [draw_part(rng) for _ in range(min(NUM_DRAWINGS, num_nuclei // PART_NUCLEI))]
    colours = default_colours(NUM_TYPES)
    types = tuple(NucleusType(f"type {index}", colour) for index, colour in enumerate(colours))
    height, width = PART_SHAPE
    per_row = 40

    def parts() -> Iterator[Part]:
        for index in range(-(-num_nuclei // PART_NUCLEI)):
            nuclei, labels = drawings[index % NUM_DRAWINGS]
            offset = (index // per_row * height, index % per_row * width)
            top, left, bottom, right = labels.box_yxyx
            box = (top + offset[0], left + offset[1], bottom + offset[0], right + offset[1])
            mine = nuclei.shift(offset).renumber(index * PART_NUCLEI + 1)
            yield Part(mine, replace(labels, box_yxyx=box), offset[0])

    shape = (height * (num_nuclei // PART_NUCLEI // per_row + 1), width * per_row)
    return SlideResult("slide", shape, lambda box: np.zeros((1, 1, 3), np.uint8), parts, 0.25, 1.0, types)


def draw_part(rng: np.random.Generator) -> tuple[Nuclei, PackedLabels]:
    """Return ``PART_NUCLEI`` ellipses of any size and slope, and their pixels."""
    label_map = np.zeros(PART_SHAPE, np.int32)
    for index in range(PART_NUCLEI):
        centre = (index % COLUMNS * PITCH + PITCH // 2, index // COLUMNS * PITCH + PITCH // 2)
        axes = rng.integers(*SEMI_AXES, 2).tolist()
        cv2.ellipse(label_map, centre, axes, int(rng.integers(180)), 0, 360, index + 1, cv2.FILLED)
    votes = rng.random((NUM_TYPES, *PART_SHAPE), np.float32) / NUM_TYPES
    return describe(label_map, votes), PackedLabels.pack(label_map, (0, 0))


def write_plain(result: SlideResult, path: Path) -> None:
    """Write all nuclei as one dictionary, as the reference does."""
    entries = {}
    for part in result.parts():
        nuclei = part.nuclei
        for row, nucleus in enumerate(nuclei.ids):
            assert nuclei.types is not None and nuclei.type_shares is not None
            entries[str(nucleus)] = {
                "bbox": nuclei.boxes_yxyx[row].reshape(2, 2).tolist(),
                "centroid": nuclei.centroids[row, ::-1].tolist(),
                "contour": nuclei.contour(row)[:, ::-1].tolist(),
                "type_prob": float(nuclei.type_shares[row]),
                "type": int(nuclei.types[row]),
            }
    with path.open("w") as file:
        json.dump({"mag": None, "nuc": entries}, file)


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Give a list that holds, after the block, the most bytes by which the process's memory grew in it."""
    process, is_over, growth = psutil.Process(), threading.Event(), [0.0]
    before = process.memory_info().rss

    def watch() -> None:
        while not is_over.wait(SAMPLE_SECONDS):
            growth[0] = max(growth[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield growth
    finally:
        is_over.set()
        watcher.join()


if __name__ == "__main__":
    main()
