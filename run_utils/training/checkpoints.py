"""The state that a killed run resumes from, written atomically and refused where settings changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.hovernet.checkpoint import read_checkpoint, write_atomically

STATE_NAME = "state.pt"  # to resume from
BEST_NAME, LAST_NAME = "best.pt", "last.pt"  # networks, to use
# Settings that may differ between a run and its resumption, since the weights do not depend on them.
FREE_SETTINGS = ("output", "device", "view", "train.num_workers", "train.log_every", "train.checkpoint_every")
# What runs did that began before these settings were there.
EARLIER_SETTINGS = {"train.balance": "none", "train.sampling": "uniform", "train.sampling_gamma": 0.85}


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        phase: index of the phase under way.
        epoch: epoch within the phase under way, from 0.
        batch: batches of that epoch that are done.
        step: optimiser steps since the run began.
        best_score: best validation PQ so far; below 0 where there is none.
        epochs_without_gain: epochs of this phase since the best.
    """

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float = -1.0
    epochs_without_gain: int = 0


def save_state(path: Path, progress: Progress, settings: Any, states: Mapping[str, Any]) -> None:
    """Write progress, settings and the state dicts of everything that changes in training."""
    content = {
        "progress": dataclasses.asdict(progress),
        "settings": dataclasses.asdict(settings),
        "states": dict(states),
    }
    write_atomically(content, path)


def load_state(path: Path, settings: Any) -> tuple[Progress, dict[str, Any]] | None:
    """Return what `save_state` wrote, or None where there is nothing to resume.

    Raises:
        ValueError: where the run there has other settings; the message names them.
    """
    if not path.is_file():
        return None
    content = read_checkpoint(path)
    differing = _differences(content["settings"], dataclasses.asdict(settings))
    if differing:
        raise ValueError(
            f"{path.parent} holds a run with other settings ({'; '.join(differing[:5])}): give another "
            "output=, or the settings it began with to resume it"
        )
    return Progress(**content["progress"]), content["states"]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, now = {**EARLIER_SETTINGS, **dict(_flatten(old))}, dict(_flatten(new))
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return [
        f"{name} was {before.get(name)}, is {now.get(name)}" for name in names if name not in FREE_SETTINGS
    ]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
