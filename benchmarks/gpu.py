"""What a GPU does, correctness first, in under ten minutes: ``python -m benchmarks.gpu``.

Parts run one after another, each a process of its own with a limit; one that fails is a row that says so, and so is
one for which no time is left. It writes docs/performance_gpu.md, its JSON and its charts. Without a GPU it says so and
exits with 2; ``--device cpu`` tries the same code with tiny sizes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu_parts import Sizes, measure_network, measure_slide, measure_training, sizes_for
from benchmarks.page import write_page
from benchmarks.runs import (
    FAILED,
    LEFT_OUT,
    ROOT,
    Benchmark,
    Result,
    describe,
    describe_machine,
    load,
    run,
    save,
)

BUDGET_S = 560
LEAST_S = 10  # with less a part does not begin
TINY_DECODE = ("--size", "256", "--rows", "8", "--images", "1", "--repeats", "1")  # on a CPU, to try the code
NAME = "performance_gpu"
TEXT = (
    "Written by `python -m benchmarks.gpu`, not by hand: first whether the GPU finds what the CPU finds, then how "
    "fast. The matrix rate is that of a large bf16 product, measured in the same process; the network's share of it "
    "counts 6.2 MFLOP for each output pixel of `fast`."
)
Part = Callable[[torch.device, Sizes], None]
PARTS: dict[str, Part] = {
    "torch": partial(measure_network, predictor="torch"),
    "cudagraphs": partial(measure_network, predictor="cudagraphs"),
    "compile": partial(measure_network, predictor="compile"),
    "slide": measure_slide,
    "training": measure_training,
}


def main() -> int:
    """Run the parts, write the page; return 1 where a part failed, 2 without a GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the code")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for all parts together")
    parser.add_argument("--only", nargs="+", default=[], help="names of rows")
    parser.add_argument("--part", choices=PARTS, help="measure one part in this process, and write no page")
    parser.add_argument("--page", action="store_true", help="write the page anew, and run nothing")
    parser.add_argument(
        "--output", type=Path, help="folder of page, JSON and charts; docs, or outputs/cpu for a CPU"
    )
    arguments = parser.parse_args()
    if arguments.device != "cpu" and not arguments.page and not torch.cuda.is_available():
        print("this machine has no CUDA device; --device cpu tries the code with tiny sizes")
        return 2
    device = torch.device(arguments.device)
    if arguments.part:
        PARTS[arguments.part](device, sizes_for(device))
        return 0
    rows = list_rows(arguments.device)
    output = arguments.output or ROOT / ("outputs/cpu" if arguments.device == "cpu" else "docs")
    results = load(output / f"{NAME}.json")
    chosen = (
        [] if arguments.page else [row for row in rows if row.name in arguments.only or not arguments.only]
    )
    run_within(arguments.budget, chosen, results, output)
    write_page(output / f"{NAME}.md", rows, results, title="Performance on a GPU", text=TEXT)
    return int(any(results[row.name].status == FAILED for row in chosen))


def run_within(budget_s: float, rows: list[Benchmark], results: dict[str, Result], output: Path) -> None:
    """Run rows until the time is up; add how each ended to the results, and keep them after each."""
    end = time.monotonic() + budget_s
    for row in rows:
        left = end - time.monotonic()
        print(f"{row.line}, at most {min(left, row.limit_s):.0f} s", flush=True)
        if left < LEAST_S:
            reason = f"no time was left of {budget_s:.0f} s"
            results[row.name] = Result(LEFT_OUT, reason, environment=describe_machine())
        else:
            printed_path = output / NAME / f"{row.name}.txt"
            results[row.name] = run(row, printed_path, needs={}, limit_s=left)
        describe(results[row.name])
        save(results, output / f"{NAME}.json")


def list_rows(device: str) -> list[Benchmark]:
    """Return the rows in their order: what matters most first, since time may run out."""
    is_gpu = device != "cpu"
    tests = ("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    decode = ("-m", "benchmarks.gpu_decode")
    stain = ("-m", "benchmarks.stain", "--sizes", *(("1024", "4000") if is_gpu else ("64",)))
    rows = [
        Benchmark("tests", "correctness", (*tests, *files_with_gpu_tests()), limit_s=240),
        Benchmark("gpu_decode", "decode", (*decode, *(() if is_gpu else TINY_DECODE)), limit_s=90),
        _part("torch", "network", device, limit_s=90),
        _part("cudagraphs", "network", device, limit_s=90),
        _part("slide", "slides", device, limit_s=150),
        _part("training", "training", device, limit_s=120),
        Benchmark("stain", "stains", stain, limit_s=60),
        _part("compile", "network", device, limit_s=240),
    ]
    return rows if is_gpu else [row for row in rows if row.name not in ("tests", "cudagraphs", "compile")]


def files_with_gpu_tests() -> list[str]:
    """Return the files of tests that need a GPU, so that the others need not be imported."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in paths if "pytest.mark.gpu" in path.read_text()]


def _part(name: str, theme: str, device: str, *, limit_s: float) -> Benchmark:
    command = ("-m", "benchmarks.gpu", "--part", name, "--device", device)
    return Benchmark(name, theme, command, limit_s=limit_s)


if __name__ == "__main__":
    sys.exit(main())
