"""A row of TensorBoard's HParams tab for a run: the settings that a user varies, and the scores of its best network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from run_utils.training.flat_settings import FREE_SETTINGS, flatten_settings

SUFFIX = ".hparams"  # of the event file: one a run, so that it has one row
GROUP = "best"  # of the scores' names
VARIED = ("seed", "data.adapter", "model.", "augmentation.", "stain.", "train.")


def write_hparams(log_dir: Path, settings: Any, scores: Mapping[str, float], step: int) -> None:
    """Write a run's row beside its other events, unless it is there.

    `SummaryWriter.add_hparams` would put it into a folder of its own, as if it were another run. Nor is there a summary
    of the experiment, which holds columns as one run knows them: without one TensorBoard takes those of all runs, what
    differs first.

    Args:
        log_dir: folder of the run's event files.
        settings: of the run, a dataclass.
        scores: of its best network; few, since TensorBoard shows five columns until it is asked for more.
        step: that this network was saved after.
    """
    if any(log_dir.glob(f"*{SUFFIX}")):
        return
    from torch.utils.tensorboard import SummaryWriter  # late: it takes a second to import
    from torch.utils.tensorboard.summary import hparams

    metrics = {f"{GROUP}/{name}": score for name, score in scores.items()}
    _, *row = hparams(varied_settings(settings), metrics)
    with SummaryWriter(str(log_dir), filename_suffix=SUFFIX) as writer:
        for summary in row:
            writer.file_writer.add_summary(summary)
        for name, score in metrics.items():
            writer.add_scalar(name, score, step)


def varied_settings(settings: Any) -> dict[str, bool | int | float | str]:
    """Return the settings that a network's scores may depend on, by full name; lists as text."""
    flat = flatten_settings(dataclasses.asdict(settings))
    return {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in flat
        if name.startswith(VARIED) and name not in FREE_SETTINGS
    }
