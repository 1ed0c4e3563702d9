"""A worker of a cohort on Ray killed in the middle of a slide: what `benchmarks.faults` does for `ray`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.fault_process import (
    LATEST,
    PAUSE_S,
    compare,
    end,
    find_holder,
    find_slides,
    run_undisturbed,
    seconds_of,
    start,
    wait_for_journals,
)
from benchmarks.faults import Kill
from run_utils.inference.output_folder import UNFINISHED

NUM_WORKERS = 2
LAUNCH = ("launch=ray", f"launch.workers={NUM_WORKERS}", "launch.cpus=1")


def kill_once(folder: Path, generator: random.Random) -> Kill:
    """Kill one of two workers at a random moment, and compare all outputs with those of one undisturbed process.

    Args:
        folder: keeps the undisturbed run between calls.
        generator: of the moment and the worker.
    """
    slides, expected = find_slides(folder, num_slides=NUM_WORKERS), folder / "undisturbed"
    run_undisturbed(slides, expected)
    output = folder / f"killed_{generator.getrandbits(64):016x}"
    begun = time.perf_counter()
    process = start(slides, output, *LAUNCH)
    first = wait_for_journals(output, process)[0]
    delay = generator.uniform(0, LATEST * seconds_of(expected, first.stem))
    worker = _find_worker(output, process, time.perf_counter() + delay, generator)
    if worker is None:
        end(process)
        return kill_once(folder, generator)  # was faster than the run to compare with
    os.kill(worker, signal.SIGKILL)
    after_s = time.perf_counter() - begun
    end(process)
    what = "a worker of a cohort on Ray, in the middle of a slide"
    return compare(output, expected, what=what, after_s=after_s)


def _find_worker(
    output: Path, process: subprocess.Popen[str], moment: float, generator: random.Random
) -> int | None:
    """Return a process that works on a slide at a moment or soon after; None where the run ended before."""
    while process.poll() is None:
        journals = sorted((output / UNFINISHED).glob("*.journal"))
        working = [worker for worker in map(find_holder, journals) if worker is not None]
        if time.perf_counter() >= moment and working:
            return generator.choice(working)
        time.sleep(PAUSE_S)
    return None
