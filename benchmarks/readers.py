"""How fast slides are read: `python -m benchmarks.readers`.

Writes a JPEG pyramid (256² tiles, quality 80, 4 levels) and a mask pyramid beside it, of the sample slide's pixels
repeated, to a temporary folder. Then, for each reader that is installed and for plain openslide-python:

1. random regions, and regions row by row, of level 0, with one thread and with two;
2. the job of a well-known comparison of OpenSlide and cuCIM: open, read and save the lowest level, then cut the
   middle level into 224² tiles: a grid over the mask and 64 px around it, of which tiles with at least 5 % mask are
   read and saved;
3. regions at another resolution than the slide's: 20x read as 40x, and the other way round.

The readers take turns block by block, so that a machine that slows down does so for all.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tabulate import tabulate

from benchmarks.figures import Figure, state
from benchmarks.pyramid import write_pyramid
from dataloader.slides import open_slide

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "CMU-1-Small-Region.svs"
PLAIN = "plain OpenSlide"
MPP = 0.499  # µm/px of the sample
OTHER_MPP = {"20x read as 40x": 0.25, "20x read as 10x": 1.0, "20x read at 0.6 µm/px": 0.6}
TILE, MARGIN, MIN_OCCUPANCY = 224, 64, 0.05
THREADS = {1: "1 thread", 2: "2 threads"}
MASK_LEVEL = 220  # mean of red, green and blue below which the sample shows tissue
BLOCKS = 4

Box = tuple[int, int, int, int]


class Source(NamedTuple):
    """A slide as this benchmark reads it: (height, width) of each level, and a box (y, x) of a level as RGB."""

    shapes: list[tuple[int, int]]
    read: Callable[[int, Box], np.ndarray]
    close: Callable[[], None]


def main() -> None:
    """Write the pyramids, measure, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=20_000, help="side of level 0, px")
    parser.add_argument(
        "--regions", type=int, default=1024, help="to read of each size, reader and thread count"
    )
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    names = [PLAIN, "tiff", *(name for name in ("openslide", "cucim") if importlib.util.find_spec(name))]
    if importlib.util.find_spec("openslide") is None:
        parser.error(
            "plain OpenSlide is what the readers are compared with: pip install openslide-python openslide-bin"
        )
    with tempfile.TemporaryDirectory() as folder:
        slide_path, mask_path = Path(folder) / "slide.tif", Path(folder) / "mask.tif"
        with open_slide(SAMPLE) as sample:
            image = sample.read((0, 0, *sample.shape_level0))
        mask = np.where(cv2.blur(image, (31, 31)).mean(2) < MASK_LEVEL, 255, 0).astype(np.uint8)
        write_pyramid(slide_path, image, arguments.size, mpp=MPP)
        write_pyramid(mask_path, mask, arguments.size, mpp=MPP, quality=None)
        megabytes = slide_path.stat().st_size / 1e6
        print(
            f"{arguments.size}² px, JPEG, {megabytes:.0f} MB, {arguments.regions} regions; {os.cpu_count()} CPU cores\n"
        )
        print(compare_regions(slide_path, names, arguments.regions), "\n")
        print(compare_tiling(slide_path, mask_path, names, Path(folder)), "\n")
        print(compare_resolutions(slide_path, min(arguments.regions, 200)))


def open_source(name: str, path: Path) -> Source:
    """Open a pyramid with one of our readers, or with openslide-python alone as its documentation shows."""
    if name == PLAIN:
        return _open_plain(path)
    slide = open_slide(path, mpp=MPP, reader=name)
    return Source(
        [level.shape for level in slide.levels],
        lambda level, box: slide.read(box, MPP * slide.levels[level].downsample),
        slide.close,
    )


def _open_plain(path: Path) -> Source:
    import openslide

    slide = openslide.OpenSlide(path)

    def read(level: int, box: Box) -> np.ndarray:
        downsample = slide.level_downsamples[level]
        location = (round(box[1] * downsample), round(box[0] * downsample))
        return np.asarray(
            slide.read_region(location, level, (box[3] - box[1], box[2] - box[0])).convert("RGB")
        )

    return Source([(height, width) for width, height in slide.level_dimensions], read, slide.close)


def compare_regions(path: Path, names: list[str], num_regions: int) -> str:
    """Return a table of regions a second, and how often that is plain OpenSlide's."""
    rows = []
    for side in (256, 1024):
        for order, boxes in (("random", random_boxes(path, side, num_regions)), ("row by row", None)):
            boxes = boxes or boxes_in_rows(path, side, num_regions)
            for num_threads, threads in THREADS.items():
                seconds = time_readers(path, names, boxes, num_threads)
                rates = {name: len(boxes) / seconds[name] for name in names}
                what = f"{side}² regions of a JPEG pyramid, {order}, {threads}"
                state_rate(what, rates["tiff"], rates[PLAIN])
                cells = [f"{rate:,.0f} ({rate / rates[PLAIN]:.1f})" for rate in rates.values()]
                rows.append([f"{side}²", order, num_threads, *cells])
    return tabulate(rows, ["regions a second", "order", "threads", *names], disable_numparse=True)


def state_rate(what: str, ours: float, plain: float) -> None:
    """State how many regions a second our TIFF reader and plain OpenSlide give."""
    state(Figure(what, ours, "a second", plain, PLAIN, is_rate=True, asked="at least 2 times"))


def random_boxes(path: Path, side: int, count: int) -> list[Box]:
    """Return boxes of level 0, the same for every reader."""
    (height, width), *_ = open_source("tiff", path).shapes
    corners = np.random.default_rng(side).integers(0, (height - side, width - side), (count, 2)).tolist()
    return [(y, x, y + side, x + side) for y, x in corners]


def boxes_in_rows(path: Path, side: int, count: int) -> list[Box]:
    """Return boxes of level 0 as inference reads them: row by row, each overlapping the next by an eighth."""
    (height, width), *_ = open_source("tiff", path).shapes
    step = side - side // 8
    boxes = (
        (y, x, y + side, x + side)
        for y in range(0, height - side, step)
        for x in range(0, width - side, step)
    )
    return [box for box, _ in zip(boxes, range(count), strict=False)]


def time_readers(path: Path, names: list[str], boxes: list[Box], num_threads: int) -> dict[str, float]:
    """Return the seconds that each reader takes for all boxes; they take turns block by block."""
    seconds = dict.fromkeys(names, 0.0)
    sources = {name: open_source(name, path) for name in names}
    with ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(boxes), -(-len(boxes) // BLOCKS)):
            block = boxes[start : start + -(-len(boxes) // BLOCKS)]
            for name, source in sources.items():
                begin = time.perf_counter()
                for _ in pool.map(lambda box, source=source: source.read(0, box) is None, block):
                    pass
                seconds[name] += time.perf_counter() - begin
    for source in sources.values():
        source.close()
    return seconds


def compare_tiling(slide_path: Path, mask_path: Path, names: list[str], folder: Path) -> str:
    """Return a table of the seconds that each step of the tiling job takes, the slide's mask included."""
    columns = {name: tile_slide(name, slide_path, mask_path, folder) for name in names}
    steps = list(columns[PLAIN])
    what = f"opening, tiling and saving {columns['tiff'][steps[-1]]:.0f} tiles of {TILE}²"
    ours, plain = (columns[name]["all of it"] for name in ("tiff", PLAIN))
    state(Figure(what, ours, "s", plain, PLAIN))
    rows = [[step, *(f"{columns[name][step]:.3f}" for name in names)] for step in steps[:-1]]
    rows.append([steps[-1], *(f"{columns[name][steps[-1]]:.0f}" for name in names)])
    return tabulate(rows, ["seconds to", *names], disable_numparse=True)


def tile_slide(name: str, slide_path: Path, mask_path: Path, folder: Path) -> dict[str, float]:
    """Do the job with one reader; return the seconds of each step, and the number of tiles."""
    watch = Stopwatch()
    slide = open_source(name, slide_path)
    watch.lap("open the slide")
    lowest = slide.read(len(slide.shapes) - 1, (0, 0, *slide.shapes[-1]))
    watch.lap("read its lowest level")
    Image.fromarray(lowest).save(folder / "lowest.png")
    watch.lap("save that")
    mask_source = open_source(name, mask_path)
    watch.lap("open the mask")
    middle = len(slide.shapes) // 2
    mask = mask_source.read(middle, (0, 0, *mask_source.shapes[middle]))[..., 0] > 127
    watch.lap("read its middle level")
    tiles = [slide.read(middle, box) for box in occupied_boxes(mask)]
    watch.lap("read the tiles there")
    for index, tile in enumerate(tiles):
        Image.fromarray(tile).save(folder / f"tile_{index}.png")
    watch.lap("save them")
    slide.close()
    mask_source.close()
    return {**watch.laps, "all of it": sum(watch.laps.values()), "number of tiles": len(tiles)}


def occupied_boxes(mask: np.ndarray) -> Iterator[Box]:
    """Yield the tiles of a grid over the mask and a margin around it that have enough of it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    for top in range(rows[0] - MARGIN, rows[-1] + 1 + MARGIN, TILE):
        for left in range(columns[0] - MARGIN, columns[-1] + 1 + MARGIN, TILE):
            inside = mask[max(top, 0) : top + TILE, max(left, 0) : left + TILE]
            if inside.sum() >= MIN_OCCUPANCY * TILE**2:
                yield int(top), int(left), int(top + TILE), int(left + TILE)


class Stopwatch:
    """Seconds from lap to lap."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a lap."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def compare_resolutions(path: Path, count: int) -> str:
    """Return a table of ms to a region of 1024² working pixels, by the TIFF reader."""
    rows = []
    with open_slide(path, mpp=MPP) as slide:
        for name, mpp in {"as it is": MPP, **OTHER_MPP}.items():
            height, width = slide.working_shape(mpp)
            corners = np.random.default_rng(0).integers(0, (height - 1024, width - 1024), (count, 2)).tolist()
            boxes = [(y, x, y + 1024, x + 1024) for y, x in corners]
            cells = []
            for num_threads, threads in THREADS.items():
                with ThreadPoolExecutor(num_threads) as pool:
                    begin = time.perf_counter()
                    for _ in pool.map(lambda box, mpp=mpp: slide.read(box, mpp) is None, boxes):
                        pass
                    milliseconds = 1000 * (time.perf_counter() - begin) / count
                    cells.append(f"{milliseconds:.1f}")
                    state(Figure(f"a 1024² region, {name}, {threads}", milliseconds, "ms"))
            rows.append([name, *cells])
    return tabulate(rows, ["ms a 1024² region", *THREADS.values()], disable_numparse=True)


if __name__ == "__main__":
    main()
