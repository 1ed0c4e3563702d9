"""Run every benchmark, one after another, and write docs/performance.md: ``python -m benchmarks.all``.

Each runs in a process of its own, and nothing else should run beside it. What they stated is kept in
docs/performance.json, what they printed in docs/performance/. ``--only a,b`` runs some and keeps the others' last
results; ``--page`` runs none and writes the page anew. A benchmark that fails, or whose data is not there, is a row
that says so; the exit status is 1 where one failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.page import write_page
from benchmarks.runs import FAILED, ROOT, Benchmark, describe, load, run, save

CONSEP = ROOT.parent / "shared" / "data" / "consep"
PATCHES = ROOT / "data" / "patches" / "consep"
NAME = "performance"
TEXT = (
    "Written by `python -m benchmarks.all`, not by hand. Each figure stands beside the straightforward or the "
    'reference\'s way of doing the same, measured in the same run by the command in its row; "times better" counts '
    "how often ours is better, whatever the unit. Other machines, and other work beside it, give other figures."
)
GPU_TEXT = " What a GPU does is on [a page of its own](performance_gpu.md)."


def _row(
    name: str,
    theme: str,
    minutes: float,
    *arguments: str,
    needs: Sequence[str] = (),
    is_asked_for: bool = False,
) -> Benchmark:
    command = ("-m", f"benchmarks.{name}", *arguments)
    limit_s = 60 * max(10, 5 * minutes)
    return Benchmark(name, theme, command, minutes, tuple(needs), limit_s, is_asked_for)


BENCHMARKS = (
    _row("inference", "network", 10),
    _row("precision", "network", 2, needs=["patches"]),
    _row("startup", "network", 0.5),
    _row("gpu", "network", 10, needs=["gpu"], is_asked_for=True),
    _row("decode", "decode", 1),
    _row("gpu_decode", "decode", 0.5),
    _row("normalisation", "decode", 0.5, needs=["patches"]),
    _row("tuning", "decode", 0.7, needs=["patches"]),
    _row("statistics", "scores", 1.5),
    _row("readers", "reading", 2.5, needs=["openslide"]),
    _row("addresses", "reading", 0.4),
    _row("patches", "reading", 0.3, needs=["consep"]),
    _row("stain", "stains", 1.5),
    _row("stain_training", "stains", 90, needs=["patches"], is_asked_for=True),
    _row("loader", "training", 1, needs=["consep"]),
    _row("targets", "training", 0.2),
    _row("training", "training", 1.5),
    _row("outputs", "outputs", 2.3),
    _row("viewer", "outputs", 1.2, needs=["chromium"]),
    _row("scaling", "slides", 6),
    _row("slide", "slides", 4),
    _row("footprint", "cohorts", 1.5),
    _row("cohort_simulation", "cohorts", 1),
    _row("cohort_overhead", "cohorts", 16),
    _row("triton_overhead", "cohorts", 12),
    _row("faults", "cohorts", 60, is_asked_for=True),
)


def main() -> int:
    """Run what is asked for, write the page, and return 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="names of benchmarks, with commas between them")
    parser.add_argument("--page", action="store_true", help="write the page anew, and run nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder of page, JSON and charts")
    arguments = parser.parse_args()
    results_path = arguments.output / f"{NAME}.json"
    results = load(results_path)
    chosen = [] if arguments.page else choose(arguments.only)
    for number, benchmark in enumerate(chosen, start=1):
        print(f"{number}/{len(chosen)} {benchmark.line}, about {benchmark.minutes:g} min", flush=True)
        printed_path = arguments.output / NAME / f"{benchmark.name}.txt"
        results[benchmark.name] = run(benchmark, printed_path, needs=NEEDS)
        describe(results[benchmark.name])
        save(results, results_path)
    text = TEXT + (GPU_TEXT if (arguments.output / f"{NAME}_gpu.md").is_file() else "")
    write_page(arguments.output / f"{NAME}.md", BENCHMARKS, results, title="Performance", text=text)
    return int(any(results[benchmark.name].status == FAILED for benchmark in chosen))


def choose(only: str) -> list[Benchmark]:
    """Return the rows that are named, in the order of the table; all that need not be named, where none is."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    known = {benchmark.name for benchmark in BENCHMARKS}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"--only={only}: {', '.join(unknown)} not known; use {', '.join(sorted(known))}")
    return [row for row in BENCHMARKS if (row.name in names if names else not row.is_asked_for)]


def missing_consep() -> str:
    """Return what to do where CoNSeP is not at hand."""
    return "" if (CONSEP / "Train").is_dir() else "CoNSeP, as published, is not in ../shared/data/consep"


def missing_patches() -> str:
    """Cut CoNSeP's patches where that has not been done; return what is in the way."""
    if all((PATCHES / f"{split}.zarr").is_dir() for split in ("train", "validation", "test")):
        return ""
    if missing := missing_consep():
        return f"{missing}, from which extract_patches.py cuts data/patches/consep"
    command = ["extract_patches.py", "data=consep", f"data.root={CONSEP}"]
    print("  cutting data/patches/consep", flush=True)
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True)
    return f"extract_patches.py ended with {ended.returncode}" if ended.returncode else ""


def missing_gpu() -> str:
    """Return that there is no GPU, where there is none."""
    import torch

    return "" if torch.cuda.is_available() else "this machine has no CUDA device"


def missing_module(name: str, remedy: str) -> str:
    """Return how to install a module that is not there."""
    return "" if importlib.util.find_spec(name) else f"{name} is not installed; {remedy}"


NEEDS: dict[str, Callable[[], str]] = {
    "consep": missing_consep,
    "patches": missing_patches,
    "chromium": lambda: "" if shutil.which("chromium") else "chromium is not installed",
    "gpu": missing_gpu,
    "openslide": partial(missing_module, "openslide", "use the extra wsi"),
}


if __name__ == "__main__":
    sys.exit(main())
