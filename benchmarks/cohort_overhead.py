"""What a cohort on Ray costs over one process, both with the same CPUs: ``python -m benchmarks.cohort_overhead``.

Two slides of a minute, by one process and by one worker that has all CPUs; runs alternate. The time of slides goes from
the first one's begin to the last one's end, handing out included; starting is stated beside it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from benchmarks.fault_process import PAUSE_S
from benchmarks.figures import Figure, state
from benchmarks.slide import ROOT
from benchmarks.triton_overhead import write_slide
from run_utils.devices import usable_cpus
from run_utils.inference.output_folder import UNFINISHED

WAYS = {
    "one process": ("launch=local",),
    "Ray": ("launch=ray", "launch.workers=1", f"launch.cpus={usable_cpus()}"),
}
NUM_SLIDES = 2
WINDOW = 1024  # px; measured anew it could be another one
ASKED = 10  # % at most


class Run(NamedTuple):
    """Seconds of a run.

    Attributes:
        starting: until a slide begins.
        slides: from there until the last one has ended.
    """

    starting: float
    slides: float


def main() -> None:
    """Run the slides both ways, several times, and print the share that Ray's way takes more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="runs of each way")
    parser.add_argument(
        "--side", type=int, default=13312, help="of the slides in px; 13312: a minute on two cores"
    )
    arguments = parser.parse_args()
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="cohort_") as name:
        slides = Path(name) / "slides"
        slides.mkdir()
        first = write_slide(slides / "0.tif", arguments.side)
        for number in range(1, NUM_SLIDES):
            (slides / f"{number}.tif").hardlink_to(first)
        for index in range(arguments.times):
            for way, launch in WAYS.items():
                settings = (*launch, f"window={WINDOW}", "outputs=[json]")
                runs[way].append(measure(slides, Path(name) / f"{way} {index}", settings))
    _state(runs)


def measure(slides: Path, output: Path, settings: Sequence[str]) -> Run:
    """Run `run_infer.py`, and see from its journals when slides are worked on."""
    command = [sys.executable, "run_infer.py", f"input={slides}", f"output={output}", *settings]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        begun = ended = 0.0
        while process.poll() is None:
            if any((output / UNFINISHED).glob("*.journal")):
                ended = time.perf_counter()
                begun = begun or ended
            time.sleep(PAUSE_S)
        if process.returncode or not begun:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {errors.read()[-2000:]}")
    return Run(begun - start, ended - begun)


def _state(runs: dict[str, list[Run]]) -> None:
    medians = {
        way: Run(*(statistics.median(values) for values in zip(*of_way, strict=True)))
        for way, of_way in runs.items()
    }
    rows = [(way, median.starting, median.slides / NUM_SLIDES) for way, median in medians.items()]
    print(tabulate(rows, ("way", "s until a slide begins", "s a slide"), floatfmt=".2f"))
    direct, ray = medians.values()
    pairs = zip(*runs.values(), strict=True)
    more = statistics.median(of_ray.slides / of_one.slides - 1 for of_one, of_ray in pairs)
    what = f"slides of {direct.slides / NUM_SLIDES:.0f} s by one worker on Ray, more than by one process"
    state(Figure(what, 100 * more, "%", asked=f"at most {ASKED} %"))
    state(
        Figure(
            "start of a cohort on Ray, until a slide begins",
            ray.starting,
            "s",
            direct.starting,
            "one process",
        )
    )


if __name__ == "__main__":
    main()
