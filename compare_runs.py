"""Show training runs side by side, the best first: `python compare_runs.py runs=DIR`."""

from __future__ import annotations

import sys

from config.comparison import CompareSettings
from run_utils.entry import run_command


def main(settings: CompareSettings) -> None:
    """Print a table of the runs, and write it as CSV and Markdown."""
    from run_utils.comparison import compare_runs  # late: --help answers without numpy

    sys.stdout.write(f"{compare_runs(settings)}\n")


if __name__ == "__main__":
    run_command("compare", main)
