"""Settings of `compare_runs.py`."""

from __future__ import annotations

from dataclasses import dataclass

from config.checks import MISSING, check_not_negative


@dataclass
class CompareSettings:
    """`compare_runs.py`: training runs side by side, the best first.

    Attributes:
        runs: folder with the runs, at any depth; one run's own folder shows that run.
        output: folder for `runs.csv` and `runs.md`; where empty, `runs`.
        resamples: draws of images for the intervals of the differences; 0 for no intervals.
        seed: of these draws.
    """

    runs: str = MISSING
    output: str = ""
    resamples: int = 1000
    seed: int = 10

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_not_negative("compare", resamples=self.resamples)
