"""What training writes: one process of a run has its folder, and the others write nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from config.schema import TrainingRun
from models.hovernet.checkpoint import Network, save_checkpoint
from run_utils.report.page import write_page
from run_utils.training.checkpoints import BEST_NAME, LAST_NAME, STATE_NAME, Progress, save_state
from run_utils.training.record import RunRecord, write_scores
from run_utils.training.throughput import Usage
from run_utils.training.tracking import Tracker
from run_utils.training.validation import ValidationReport

PAGE_NAME = "validation.html"
TENSORBOARD_DIR = "tensorboard"


class RunFolder:
    """Networks, the state to resume from, TensorBoard's events, the page of validation, and the run's record.

    Args:
        run: its settings.
        facts: what saved networks should know; see ``TrainingParts``.
        num_patches: in an epoch.
        device: that the run trains on, in words.
        step: steps that are done.
    """

    def __init__(
        self, run: TrainingRun, facts: Mapping[str, Any], *, num_patches: int, device: str, step: int
    ) -> None:
        self.run = run
        self.facts = facts
        self.path = Path(run.output)
        self.record = RunRecord(
            self.path,
            num_phases=len(run.train.phases),
            num_patches=num_patches,
            device=device,
            resumes=step > 0,
        )
        self.tracker = Tracker(self.path / TENSORBOARD_DIR, step)

    def save_state(self, progress: Progress, states: Mapping[str, Any], usage: Usage) -> None:
        """Write the state dicts to resume from, and where the run stands, which took `usage` in this attempt."""
        save_state(self.path / STATE_NAME, progress, self.run, states, stain=self.facts["stain"])
        self.record.write(progress, usage)

    def save_network(
        self, network: Network, report: ValidationReport | None, *, title: str, step: int, is_best: bool
    ) -> None:
        """Write a network as the last, and as the best where it is, and what its validation found."""
        scores = {} if report is None else report.scores
        facts = {**self.facts, "validation": dict(scores), "step": step}
        if report is not None:
            self._show(report, title, step)
        save_checkpoint(network, self.path / LAST_NAME, **facts)
        if is_best:
            save_checkpoint(network, self.path / BEST_NAME, **facts)
        if is_best and report is not None:
            write_scores(self.path, report.evaluation, step=step)

    def _show(self, report: ValidationReport, title: str, step: int) -> None:
        self.tracker.epoch(title, report.scores, step)
        facts = {**report.page.facts, "run": self.run.output, "step": str(step)}
        page = replace(report.page, title=f"Validation, {title}", facts=facts)
        write_page(page, self.path / PAGE_NAME)
        if report.panel is not None:
            self.tracker.image("validation", report.panel, step)
