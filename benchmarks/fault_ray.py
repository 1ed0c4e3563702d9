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
    found = _find_worker(output, process, time.perf_counter() + delay, generator)
    if found is None:
        end(process)
        return kill_once(folder, generator)  # was faster than the run to compare with
    worker, journal, spent_s = found
    os.kill(worker, signal.SIGKILL)
    after_s = time.perf_counter() - begun
    end(process)
    return compare(
        output,
        expected,
        name=journal.stem,
        what="a worker of a cohort on Ray, in the middle of a slide",
        after_s=after_s,
        spent_s=spent_s,
    )


def _find_worker(
    output: Path, process: subprocess.Popen[str], moment: float, generator: random.Random
) -> tuple[int, Path, float] | None:
    """Return a process that works on a slide at a moment or soon after, the slide's journal, and its seconds so far.

    None where the run ended before.
    """
    since: dict[Path, float] = {}
    while process.poll() is None:
        for journal in (output / UNFINISHED).glob("*.journal"):
            since.setdefault(journal, time.perf_counter())
        now = time.perf_counter()
        working = [(worker, journal) for journal in since if (worker := find_holder(journal)) is not None]
        if now >= moment and working:
            worker, journal = generator.choice(working)
            return worker, journal, now - since[journal]
        time.sleep(PAUSE_S)
    return None
