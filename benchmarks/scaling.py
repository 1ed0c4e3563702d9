"""Print what a megapixel costs in images of 1 to 64 Mpx, and the memory they take: ``python -m benchmarks.scaling``."""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
from tabulate import tabulate

from benchmarks.figures import Figure, state
from benchmarks.pyramid import write_pyramid
from benchmarks.resident import resident_of_family
from benchmarks.slide import MPP, PAUSE_S, ROOT, SAMPLE
from dataloader.slides import open_slide

SIDES = {1: 1024, 4: 2048, 16: 4096, 64: 8192}  # px by Mpx
ALL = 64  # Mpx of a folder: one image of 64, or 64 of 1
OUTPUTS = "json,geojson,parquet"
TISSUE = (4064, 1464, 5600, 3000)  # box of the sample at 0.25 µm/px that holds next to no glass
WHOLE_RUN = re.compile(r"^whole run +([0-9.]+)", re.MULTILINE)  # what a run prints, less its start-up
ASKED_SPREAD = 0.15
ASKED_GROWTH = 1.3  # of memory: flat, but for noise


def main() -> None:
    """Run `run_infer.py` on folders of as many pixels, in images of each size; the sample's tissue fills them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIDES), help="Mpx")
    parser.add_argument("--predictor", default="auto")
    parser.add_argument("--repeats", type=int, default=3, help="runs that a median is of")
    arguments = parser.parse_args()
    rows: list[tuple[int, float, float]] = []
    with tempfile.TemporaryDirectory() as name, open_slide(SAMPLE) as slide:
        folder, tissue = Path(name), slide.read(TISSUE, MPP)
        for size in arguments.sizes:
            _write_images(folder / f"{size}", size, tissue)
        runs: dict[int, list[tuple[float, float]]] = {size: [] for size in arguments.sizes}
        for number in range(arguments.repeats):  # one size after another: the machine's pace changes
            for size in arguments.sizes:
                runs[size].append(_run(folder / f"{size}", folder / f"{size}-{number}", arguments.predictor))
    for size, measured in runs.items():
        seconds, peaks = zip(*measured, strict=True)
        rows.append((size, statistics.median(seconds) / ALL, statistics.median(peaks)))
    print(tabulate(rows, ["Mpx", "s/Mpx", "peak GiB"], floatfmt=".3f"))
    for size, cost, peak in rows:
        images = f"{ALL // size} image{'s' * (size < ALL)} of {size} Mpx, lite"
        state(Figure(images, cost, "s/Mpx"))
        state(Figure(f"{images}, peak memory", peak, "GiB"))
    _, costs, peaks = zip(*rows, strict=True)
    spread = 100 * (max(costs) / min(costs) - 1)
    state(Figure("dearest megapixel above the cheapest", spread, "%", asked=f"at most {ASKED_SPREAD:.0%}"))
    growth, asked = peaks[-1] / peaks[0], f"at most {ASKED_GROWTH} times"
    state(Figure("memory, largest image over the smallest", growth, "times", asked=asked))


def _write_images(folder: Path, size: int, tissue: np.ndarray) -> None:
    folder.mkdir()
    write_pyramid(folder / "0.tif", tissue, SIDES[size], mpp=MPP, downsamples=(1,))
    for number in range(1, ALL // size):
        (folder / f"{number}.tif").hardlink_to(folder / "0.tif")


def _run(images: Path, output: Path, predictor: str) -> tuple[float, float]:
    """Return the seconds that a folder takes, starting the program left out, and the most GiB of memory."""
    command = [sys.executable, "run_infer.py", f"input={images}", f"output={output}", "tissue=false"]
    command += [f"outputs=[{OUTPUTS}]", f"predictor={predictor}"]
    peak = 0
    with tempfile.TemporaryFile("w+") as printed:
        process = psutil.Popen(command, cwd=ROOT, stdout=printed, stderr=subprocess.DEVNULL)
        while True:
            peak = max(peak, resident_of_family(process))
            try:
                process.wait(PAUSE_S)
                break
            except psutil.TimeoutExpired:
                continue
        printed.seek(0)
        said = WHOLE_RUN.search(printed.read())
    if process.returncode or said is None:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return float(said[1]), peak / 2**30


if __name__ == "__main__":
    main()
