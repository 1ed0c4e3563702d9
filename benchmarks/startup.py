"""Print how long a command takes to answer, and the demo once installed: ``python -m benchmarks.startup``."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.figures import Figure, state
from benchmarks.timing import median_ms

ROOT = Path(__file__).resolve().parents[1]
HELP_SECONDS, DEMO_SECONDS = 1.5, 60


def main() -> None:
    """Time `run_infer.py --help`, a median, and once what `make demo` runs, into a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="that the median of --help is of")
    arguments = parser.parse_args()
    milliseconds, _ = median_ms(partial(run, ["run_infer.py", "--help"]), arguments.repeats)
    state(Figure("run_infer.py --help", milliseconds / 1000, "s", asked=f"at most {HELP_SECONDS} s"))
    with tempfile.TemporaryDirectory() as folder:
        command = [f"output={folder}" if part.startswith("output=") else part for part in demo_command()]
        start = time.perf_counter()
        run(command)
        seconds = time.perf_counter() - start
    state(Figure("make demo, once installed", seconds, "s", asked=f"at most {DEMO_SECONDS} s"))


def demo_command() -> list[str]:
    """Return the script and the settings that `make demo` gives to Python."""
    found = re.search(r"^demo:.*\n\t\S*python (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(
            "the Makefile has no `demo:` whose first line starts Python; write it so, or change this"
        )
    return shlex.split(found[1])


def run(command: Sequence[str]) -> None:
    """Run a script of the checkout, and see that it ends well."""
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)


if __name__ == "__main__":
    main()
