"""The state that a killed run resumes from, written atomically and refused where settings changed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.hovernet.checkpoint import read_checkpoint, write_atomically
from run_utils.training.flat_settings import FREE_SETTINGS, flatten_settings

STATE_NAME = "state.pt"  # to resume from
BEST_NAME, LAST_NAME = "best.pt", "last.pt"  # networks, to use
# relative; a target fitted again by another processor differs less, by far less than a grey level
SAME_STAIN = 1e-4


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


def save_state(
    path: Path, progress: Progress, settings: Any, states: Mapping[str, Any], *, stain: Mapping[str, Any]
) -> None:
    """Write progress, settings and the state dicts of everything that changes in training.

    Args:
        path: of the file.
        progress: where the run stands.
        settings: of the run, a dataclass.
        states: by the names of the parts.
        stain: what the patches are normalised to, as ``describe_stain`` gives it: a setting names but its file.
    """
    content = {
        "progress": dataclasses.asdict(progress),
        "settings": dataclasses.asdict(settings),
        "stain": dict(stain),
        "states": dict(states),
    }
    write_atomically(content, path)


def load_state(
    path: Path, settings: Any, *, stain: Mapping[str, Any]
) -> tuple[Progress, dict[str, Any]] | None:
    """Return what `save_state` wrote, or None where there is nothing to resume.

    A setting that was not there when the run began counts as its default.

    Raises:
        ValueError: where the run there has other settings, which the message names, or another stain.
    """
    if not path.is_file():
        return None
    content = read_checkpoint(path)
    differing = _differences(_complete(content["settings"], settings), dataclasses.asdict(settings))
    if differing:
        raise ValueError(
            f"{path.parent} holds a run with other settings ({'; '.join(differing[:5])}): give another "
            "output=, or the settings it began with to resume it"
        )
    if not _is_same(content.get("stain", stain), stain):
        raise ValueError(
            f"{path.parent} holds a run whose patches got another stain than stain.target="
            f"{settings.stain.target or 'the published one'} gives now; it was {content['stain']}: "
            "bring that file back, or give another output="
        )
    return Progress(**content["progress"]), content["states"]


def _complete(old: Mapping[str, Any], now: Any) -> dict[str, Any]:
    """Return settings of an older version with the defaults of those that it did not know.

    Args:
        old: settings as plain data.
        now: dataclass of today's.
    """
    completed = dict(old)
    for field in dataclasses.fields(now):
        value = getattr(now, field.name)
        if field.name not in old:
            completed[field.name] = _default(field)
        elif dataclasses.is_dataclass(value):
            completed[field.name] = _complete(old[field.name], value)
        elif isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
            completed[field.name] = [_complete(item, value[0]) for item in old[field.name]]
    return completed


def _default(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field as plain data."""
    if field.default_factory is dataclasses.MISSING:
        return field.default
    value = field.default_factory()
    is_group = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dataclasses.asdict(value) if is_group else value


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, now = dict(flatten_settings(old)), dict(flatten_settings(new))
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return [
        f"{name} was {before.get(name)}, is {now.get(name)}" for name in names if name not in FREE_SETTINGS
    ]


def _is_same(one: Any, other: Any) -> bool:
    """Return whether plain data are the same, their numbers but for rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=SAME_STAIN)
    return bool(one == other)
