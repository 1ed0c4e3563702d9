"""Measure predictions against the truth: `python compute_stats.py true=DIR predicted=DIR mode=instance|type|all`."""

from __future__ import annotations

import sys

from config.schema import EvaluateSettings
from run_utils.entry import run_command


def main(settings: EvaluateSettings) -> int:
    """Print tables of scores and write them as CSV and JSON; 1 where an image lacks its partner or failed."""
    from run_utils.evaluation import evaluate_settings  # late: --help answers at once

    report = evaluate_settings(settings)
    sys.stdout.write(f"{report.scores_table}\n\n{report.table}\n")
    return report.exit_status


if __name__ == "__main__":
    run_command("evaluate", main)
