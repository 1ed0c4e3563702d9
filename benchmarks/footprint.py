"""Print what a slide takes beside time: bytes written, bytes and requests read, its line in run.json.

    python -m benchmarks.footprint

The slide, native 20x tissue as a JPEG pyramid, lies on a web server on this machine, which counts. The record of a
run is timed as it grows; both are what docs/scale.md is worked out from.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from tabulate import tabulate

from benchmarks.figures import Figure, state
from benchmarks.pyramid import write_pyramid
from benchmarks.served import ServedFolder
from benchmarks.slide import PAUSE_S, ROOT, SAMPLE
from config.schema import InferSettings
from dataloader.slides import open_slide
from run_utils.inference.manifest import Manifest, identify
from run_utils.inference.status import DONE, SlideStatus

SCANNED_MPP = 0.5
TISSUE = (2032, 732, 2800, 1500)  # box of the sample, level-0 px, that holds next to no glass
OUTPUTS = ("json", "geojson", "qupath", "parquet", "store", "label", "overlay", "thumb", "mask")
SIDES = (1024, 3072)  # px: 0.26 and 2.36 mm²
ENTRIES = (100, 1000, 10_000)
REPEATS = 5
IMAGES = ("the slide itself", "label", "overlay", "thumb", "mask")
GLASS_GREY = 220  # grey level above which the sample shows glass
MB = 1e6


def main() -> None:
    """Run `run_infer.py` on the sample, and on two sizes of its tissue: what differs is what a mm² takes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs=2, default=SIDES, help="px of tissue, at 0.5 µm/px")
    parser.add_argument("--entries", type=int, nargs="+", default=ENTRIES, help="slides in run.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = _measure(SAMPLE, folder / "sample", OUTPUTS)
        _state_outputs(sample)
        small, large = (
            _measure(_fill(folder, side), folder / f"out-{side}", ["json"]) for side in arguments.sides
        )
        _state_network(small, large)
        _state_tissue_bytes()
        _state_record(folder / "record", sample.entry, arguments.entries)


@dataclass(frozen=True)
class Measured:
    """What one slide took.

    Attributes:
        entry: of it in `run.json`.
        sizes: of files by name, bytes.
        num_bytes: that the web server sent.
        num_requests: that it answered.
    """

    entry: dict[str, Any]
    sizes: dict[str, int]
    num_bytes: int
    num_requests: int

    @property
    def mm2(self) -> float:
        """Tissue looked at."""
        return float(self.entry["mm2"])


def _fill(folder: Path, side: int) -> Path:
    """Write a pyramid full of tissue; return its path."""
    with open_slide(SAMPLE) as slide:
        tissue = slide.read(TISSUE, None)
    path = folder / f"{side}.tif"
    write_pyramid(path, tissue, side, mpp=SCANNED_MPP, downsamples=(1, 4))
    return path


def _measure(slide: Path, output: Path, outputs: Sequence[str]) -> Measured:
    with ServedFolder(slide.parent) as served:
        command = [sys.executable, "run_infer.py", f"input={served.url}/{slide.name}", f"output={output}"]
        journal = _largest_journal([*command, f"outputs=[{','.join(outputs)}]"], output)
    (entry,) = json.loads((output / "run.json").read_text())["slides"].values()
    sizes = {"the slide itself": slide.stat().st_size, "journal, while it runs": journal}
    for name in outputs:
        sizes[name] = sum(path.stat().st_size for path in (output / name).iterdir())
    return Measured(entry, sizes, served.num_bytes, served.num_requests)


def _largest_journal(command: Sequence[str], output: Path) -> int:
    """Run a command; return the largest size that unfinished work in the output folder had."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    largest = 0
    while process.poll() is None:
        for path in output.glob(".unfinished/*.journal"):
            try:
                largest = max(largest, path.stat().st_size)
            except FileNotFoundError:  # removed between the two calls
                continue
        time.sleep(PAUSE_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return largest


def _state_outputs(measured: Measured) -> None:
    num_nuclei = measured.entry["num_nuclei"]
    rows = [
        (name, size / MB, size / measured.mm2 / MB, size / num_nuclei)
        for name, size in measured.sizes.items()
    ]
    print(f"{measured.mm2:.2f} mm², {num_nuclei:,} nuclei, {num_nuclei / measured.mm2:,.0f} nuclei/mm²")
    print(tabulate(rows, ["file", "MB", "MB/mm²", "bytes a nucleus"], floatfmt=("", ".2f", ".3f", ".0f")))
    for name, _, per_mm2, per_nucleus in rows:
        is_image = name in IMAGES
        value, unit = (per_mm2, "MB/mm²") if is_image else (per_nucleus, "bytes a nucleus")
        state(Figure(f"the sample, {name}", value, unit))


def _state_network(small: Measured, large: Measured) -> None:
    """State what reading asks of the network: by the mm², and beside that."""
    for what, unit, scale in (("num_bytes", "MB", MB), ("num_requests", "requests", 1)):
        first, second = getattr(small, what) / scale, getattr(large, what) / scale
        growth = (second - first) / (large.mm2 - small.mm2)
        state(Figure(f"read over the network, {unit}", growth, f"{unit}/mm²"))
        fixed = first - growth * small.mm2
        state(Figure(f"read over the network, {unit}, beside its mm²", fixed, f"{unit} a slide"))
    share = large.num_bytes / large.sizes["the slide itself"]
    state(Figure("read over the network, all of it tissue", share, "times the slide's bytes"))


def _state_tissue_bytes() -> None:
    """State what a pixel of tissue and of glass takes in the sample as the scanner compressed it."""
    with tifffile.TiffFile(SAMPLE) as file:
        page: Any = file.pages[0]
        pixels, side = page.asarray(), page.tilewidth
        across = -(-page.imagewidth // side)
        share, density = [], []
        for index, size in enumerate(page.databytecounts):
            top, left = index // across * side, index % across * side
            tile = pixels[top : top + side, left : left + side]
            if tile.shape[:2] == (side, side):
                share.append(float((tile.mean(axis=2) < GLASS_GREY).mean()))
                density.append(size / side**2)
    slope, glass = np.polyfit(share, density, 1)
    state(Figure("the sample's tissue, JPEG as scanned", glass + slope, "bytes a pixel"))
    state(Figure("the sample's glass, JPEG as scanned", glass, "bytes a pixel"))
    related = float(np.corrcoef(share, density)[0, 1])
    state(Figure("correlation of a tile's bytes with its share of tissue", related, ""))


def _state_record(folder: Path, entry: dict[str, Any], counts: Sequence[int]) -> None:
    """Time what a slide asks of a record that holds others; a line of it is one like those of this run."""
    size = len(json.dumps({"slide": entry}, indent=2))
    state(Figure("a slide in run.json", size, "bytes"))
    rows = [(count, *_time_record(folder, entry, count)) for count in counts]
    print(
        tabulate(rows, ["slides in run.json", "MB", "ms to look one up", "ms to record one"], floatfmt=".1f")
    )
    for count, _, looking, recording in rows:
        state(Figure(f"run.json of {count:,} slides, to look one up, CPU time", looking, "ms"))
        state(Figure(f"run.json of {count:,} slides, to record one, CPU time", recording, "ms"))


def _time_record(folder: Path, entry: dict[str, Any], count: int) -> tuple[float, float, float]:
    """Return megabytes, and the milliseconds to look a slide up and to record one, of a record of ``count``."""
    manifest, path = Manifest(folder, InferSettings(output=str(folder))), folder / "run.json"
    content = json.loads(path.read_text())
    content["slides"] = {f"slide_{number:07}": entry for number in range(count)}
    path.write_text(json.dumps(content, indent=2) + "\n")
    identity = identify(SAMPLE)
    status = SlideStatus("slide_0000000", DONE, made_with=entry["made_with"], stain=entry["stain"])
    looking = _median_ms(partial(manifest.is_done, "slide_0000001", identity))
    recording = _median_ms(partial(manifest.record, status, SAMPLE, identity))
    manifest.close(is_complete=False)
    return path.stat().st_size / MB, looking, recording


def _median_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


if __name__ == "__main__":
    main()
