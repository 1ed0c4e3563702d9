"""Print what a megapixel costs in images of 1 to 64 Mpx, and the memory they take: ``python -m benchmarks.scaling``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import datetime
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
MEGA = 2**20
OUTPUTS = "json,geojson,parquet"
TISSUE = (4064, 1464, 5600, 3000)  # box of the sample at 0.25 µm/px that holds next to no glass
REPEATS = {1: 12, 4: 6, 16: 3}  # images that count, by Mpx; of others one
ASKED_SPREAD = 0.15
ASKED_GROWTH = 1.3  # of memory: flat, but for noise


def main() -> None:
    """Run `run_infer.py` on folders of images of each size; the sample's tissue fills them.

    Time counts from the end of a folder's first image to that of its last: small ones are worked on side by side.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIDES), help="Mpx")
    parser.add_argument("--predictor", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_slide(SAMPLE) as slide:
        tissue = slide.read(TISSUE, MPP)
        rows = [_measure(size, tissue, Path(folder), arguments.predictor) for size in arguments.sizes]
    print(tabulate(rows, ["Mpx", "nuclei", "s", "s/Mpx", "peak GiB"], floatfmt=".3f"))
    costs, peaks = [row[3] for row in rows], [row[4] for row in rows]
    for size, *_, cost, peak in rows:
        state(Figure(f"{size} Mpx, lite", cost, "s/Mpx"))
        state(Figure(f"{size} Mpx, lite, peak memory", peak, "GiB"))
    spread = max(costs) / min(costs) - 1
    state(
        Figure("dearest megapixel above the cheapest", 100 * spread, "%", asked=f"at most {ASKED_SPREAD:.0%}")
    )
    state(
        Figure(
            "memory, largest image over the smallest",
            peaks[-1] / peaks[0],
            "times",
            asked=f"at most {ASKED_GROWTH} times",
        )
    )


def _measure(
    size: int, tissue: np.ndarray, folder: Path, predictor: str
) -> tuple[int, int, float, float, float]:
    images = folder / f"{size}"
    images.mkdir()
    first = images / "0.tif"
    write_pyramid(first, tissue, SIDES[size], mpp=MPP, downsamples=(1,))
    repeats = REPEATS.get(size, 1)
    for number in range(repeats):
        (images / f"{number + 1}.tif").hardlink_to(first)
    output = folder / f"{size}-out"
    command = [sys.executable, "run_infer.py", f"input={images}", f"output={output}", "tissue=false"]
    command += [f"outputs=[{OUTPUTS}]", f"predictor={predictor}"]
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while True:
        peak = max(peak, resident_of_family(process))
        try:
            process.wait(PAUSE_S)
            break
        except psutil.TimeoutExpired:
            continue
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    statuses = list(json.loads((output / "run.json").read_text())["slides"].values())
    ended = [datetime.fromisoformat(status["ended"]) for status in statuses]
    seconds = (max(ended) - min(ended)).total_seconds() / repeats
    return size, statuses[0]["num_nuclei"], seconds, seconds / (SIDES[size] ** 2 / MEGA), peak / 2**30


if __name__ == "__main__":
    main()
