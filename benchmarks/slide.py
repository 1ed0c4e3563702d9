"""Print time, memory and disk that whole slides take: ``python -m benchmarks.slide``."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tabulate import tabulate

from benchmarks.figures import Figure, state
from benchmarks.pyramid import TILE, spread, write_pyramid
from benchmarks.resident import resident_of_family
from dataloader.slides import open_slide

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "samples" / "CMU-1-Small-Region.svs"
OUTPUTS = ("json", "geojson", "parquet", "store", "label", "overlay", "thumb", "mask")
MPP = 0.25
LIMIT_GIB = 4.0
PAUSE_S = 0.05


@dataclass
class Watched:
    """What a process and its children took, at most.

    Attributes:
        seconds: wall time.
        peak_gib: resident memory of all of them together.
        largest_mb: largest file seen in the output folder at any time.
        stages: the table that the run prints.
    """

    seconds: float
    peak_gib: float
    largest_mb: float
    stages: str


def main() -> None:
    """Run `run_infer.py` on the sample, on a pyramid of it and on a large synthetic slide, one by one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=60_000, help="of the synthetic slide, level-0 px")
    parser.add_argument("--share", type=float, default=0.05, help="of it that is tissue, 0..1")
    parser.add_argument("--only", choices=["sample", "pyramid", "synthetic"], help="run one of the three")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        with open_slide(SAMPLE) as slide:
            tissue = slide.read((0, 0, *slide.working_shape(MPP)), MPP)
        for name in [arguments.only] if arguments.only else ["sample", "pyramid", "synthetic"]:
            path = _make(name, Path(folder), tissue, arguments.side, arguments.share)
            output = Path(folder) / f"{name}-out"
            watched = watch(path, output)
            rows.append(_row(name, path, output, watched))
            print(watched.stages, flush=True)
            print(tabulate(rows, HEADINGS, floatfmt=".2f"), flush=True)
            _state(rows[-1])
            if watched.peak_gib >= LIMIT_GIB:
                raise SystemExit(f"{name} took {watched.peak_gib:.2f} GiB, more than {LIMIT_GIB}")
            largest_output = max(path.stat().st_size for path in output.rglob("*") if path.is_file()) / 1e6
            if watched.largest_mb > largest_output:
                raise SystemExit(
                    f"{name} wrote a file of {watched.largest_mb:.1f} MB, larger than any output"
                )


def _state(row: tuple[Any, ...]) -> None:
    facts = dict(zip(HEADINGS, row, strict=True))
    what = f"{facts['slide']}, {facts['level-0 px']}px, {facts['tissue mm²']:.2f} mm² of tissue"
    state(Figure(f"{what}, start-up included", facts["s/mm²"], "s/mm²"))
    state(Figure(f"{what}, peak memory", facts["peak GiB"], "GiB", asked=f"at most {LIMIT_GIB:g} GiB"))


HEADINGS = (
    "slide",
    "level-0 px",
    "tissue mm²",
    "nuclei",
    "seconds",
    "s/mm²",
    "peak GiB",
    "slide MB",
    "largest output MB",
    "largest file ever MB",
)


def _make(name: str, folder: Path, tissue: np.ndarray, side: int, share: float) -> Path:
    """Return a slide's path, written where it is not the sample itself."""
    path = folder / f"{name}.tif"
    if name == "sample":
        return SAMPLE
    if name == "pyramid":
        side, corners, downsamples = -(-max(tissue.shape) // TILE) * TILE, [(0, 0)], (1, 2, 4, 8)
    else:
        shape = (tissue.shape[0], tissue.shape[1])
        corners, downsamples = spread(side, shape, share), (1, 4, 16, 64)
    write_pyramid(path, tissue, side, mpp=MPP, corners_yx=corners, downsamples=downsamples)
    return path


def watch(slide: Path, output: Path) -> Watched:
    """Run the command on a slide; return what it took, sampled every 50 ms."""
    command = [sys.executable, "run_infer.py", f"input={slide}", f"output={output}"]
    command += [f"outputs=[{','.join(OUTPUTS)}]"]
    start = time.perf_counter()
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak, largest = 0, 0
    while process.poll() is None:
        peak = max(peak, resident_of_family(process))
        largest = max(largest, _largest_file(output))
        time.sleep(PAUSE_S)
    printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {printed}")
    stages = re.search(r"^stage.*", printed, re.MULTILINE | re.DOTALL)
    return Watched(
        time.perf_counter() - start, peak / 2**30, largest / 1e6, stages.group() if stages else printed
    )


def _largest_file(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # renamed between the two calls
            continue
    return max(sizes)


def _row(name: str, slide: Path, output: Path, watched: Watched) -> tuple[Any, ...]:
    (status,) = json.loads((output / "run.json").read_text())["slides"].values()
    outputs = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
    return (
        name,
        f"{status['num_pixels'] / 1e6:,.0f} M",
        status["mm2"],
        status["num_nuclei"],
        watched.seconds,
        watched.seconds / status["mm2"],
        watched.peak_gib,
        slide.stat().st_size / 1e6,
        max(outputs) / 1e6,
        watched.largest_mb,
    )


if __name__ == "__main__":
    main()
