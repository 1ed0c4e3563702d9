"""Measure predictions against the truth: `python compute_stats.py true=DIR predicted=DIR mode=instance|type`."""

from __future__ import annotations

import sys

from config.schema import EvaluateSettings
from run_utils.entry import run_command


def main(settings: EvaluateSettings) -> int:
    """Print a table of scores and write it as CSV and JSON; 1 where an image lacks its partner."""
    from run_utils.evaluation import TypeScheme, evaluate  # late: --help answers at once

    report = evaluate(
        settings.true,
        settings.predicted,
        mode=settings.mode,
        output_dir=settings.output,
        radius=settings.radius,
        types=TypeScheme(settings.type_names, settings.merge_types),
    )
    sys.stdout.write(f"{report.table}\n")
    return report.exit_status


if __name__ == "__main__":
    run_command("evaluate", main)
