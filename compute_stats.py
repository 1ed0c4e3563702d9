"""Measure predictions against the truth: `python compute_stats.py true=DIR predicted=DIR mode=instance|type|all`."""

from __future__ import annotations

import sys

from config.schema import EvaluateSettings
from run_utils.entry import run_command


def main(settings: EvaluateSettings) -> int:
    """Print tables of scores and write them, and a page of them; 1 where an image lacks its partner or failed."""
    from run_utils.evaluation import evaluate_settings  # late: --help answers at once
    from run_utils.report.files import write_report

    evaluation = evaluate_settings(settings)
    page = write_report(evaluation, settings)
    sys.stdout.write(f"{evaluation.scores_table}\n\n{evaluation.table}\n\n{page}\n")
    return evaluation.exit_status


if __name__ == "__main__":
    run_command("evaluate", main)
