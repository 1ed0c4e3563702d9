"""`run_infer.py` killed in the middle of a slide, and started again: what `benchmarks.faults` does for `process`."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import Kill
from benchmarks.slide import ROOT, SAMPLE
from run_utils.devices import CPUS_VARIABLE
from run_utils.inference.output_folder import UNFINISHED
from run_utils.outputs import output_path

OUTPUTS = ("json", "geojson", "label")
SETTINGS = (
    f"outputs=[{','.join(OUTPUTS)}]",
    "regions=732,2032,700,700",  # x,y,width,height in level-0 px: all tissue, some seconds
    "region_size=256",
    "window=512",
    "predictor=torch",  # an engine takes seconds to start
    "device=cpu",
)
ONE_CPU = {"OMP_NUM_THREADS": "1", CPUS_VARIABLE: "1"}  # so that all runs compute alike
LATEST = 0.95  # of a slide's undisturbed seconds
PAUSE_S = 0.005
LIMIT_S = 300.0


def kill_once(folder: Path, generator: random.Random) -> Kill:
    """Kill a run at a random moment of its slide, start it again, and compare its outputs.

    Args:
        folder: keeps the undisturbed run between calls.
        generator: of the moment.
    """
    slides, expected = find_slides(folder, num_slides=1), folder / "undisturbed"
    run_undisturbed(slides, expected)
    output = folder / f"killed_{generator.getrandbits(64):016x}"
    begun = time.perf_counter()
    process = start(slides, output)
    journals = wait_for_journals(output, process)
    time.sleep(generator.uniform(0, LATEST * seconds_of(expected, journals[0].stem)))
    if process.poll() is not None:
        return kill_once(folder, generator)  # was faster than the run to compare with
    process.kill()
    process.wait()
    killed = time.perf_counter()
    end(start(slides, output))
    return compare(
        output,
        expected,
        what="run_infer.py, in the middle of a slide, started again",
        after_s=killed - begun,
    )


def find_slides(folder: Path, num_slides: int) -> Path:
    """Return a folder with so many copies of the sample slide, made where they are not there yet."""
    slides = folder / "slides"
    slides.mkdir(exist_ok=True)
    for number in range(num_slides):
        path = slides / f"slide{number}.svs"
        if not path.is_file():
            shutil.copy(SAMPLE, path)
    return slides


def run_undisturbed(slides: Path, output: Path) -> None:
    """Run one process to its end, unless that was done before."""
    if not (output / "run.json").is_file():
        end(start(slides, output))


def start(slides: Path, output: Path, *settings: str) -> subprocess.Popen[str]:
    """Start `run_infer.py`."""
    command = [sys.executable, "run_infer.py", f"input={slides}", f"output={output}", *SETTINGS, *settings]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **ONE_CPU},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    """Wait until a run has ended, and see to it that it has ended well."""
    _, errors = process.communicate(timeout=LIMIT_S)
    if process.returncode:
        raise RuntimeError(f"run_infer.py ended with {process.returncode}: {errors[-2000:]}")


def wait_for_journals(output: Path, process: subprocess.Popen[str]) -> Sequence[Path]:
    """Return the journals of the slides in work, once there is one."""
    while not (journals := sorted((output / UNFINISHED).glob("*.journal"))):
        if process.poll() is not None:
            raise RuntimeError("the run ended before a slide began")
        time.sleep(PAUSE_S)
    return journals


def find_holder(path: Path) -> int | None:
    """Return the process that has a file locked, by the kernel's list; None where nobody has."""
    try:
        inode = str(path.stat().st_ino)
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, _, process, place, *_ = line.split()
        if kind == "FLOCK" and place.rpartition(":")[2] == inode:
            return int(process)
    return None


def seconds_of(output: Path, name: str) -> float:
    """Return how long a slide took: the last time, where it took several."""
    return float(json.loads((output / "run.json").read_text())["slides"][name]["seconds"])


def compare(output: Path, expected: Path, *, what: str, after_s: float) -> Kill:
    """Return what a run has lost and has twice of an undisturbed one.

    Args:
        output: of the run.
        expected: of the undisturbed run.
        what: was killed.
        after_s: seconds from the run's start to the kill.
    """
    lost = twice = 0
    for slide in json.loads((expected / "run.json").read_text())["slides"]:
        files = [[output_path(place, slide, kind) for kind in OUTPUTS] for place in (output, expected)]
        found, wanted = (_nuclei(paths[0]) for paths in files)
        lost += (wanted - found).total()
        twice += (found - wanted).total()
        if found == wanted and any(a.read_bytes() != b.read_bytes() for a, b in zip(*files, strict=True)):
            twice += 1  # the same nuclei, otherwise written
    return Kill(what, after_s, lost, twice)


def _nuclei(path: Path) -> Counter[str]:
    nuclei = json.loads(path.read_text())["nuc"]
    return Counter(json.dumps([number, nucleus], sort_keys=True) for number, nucleus in nuclei.items())
