"""The settings of a run by their full names, and those of them that its weights do not depend on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Settings that may differ between a run and its resumption, since the weights, but for rounding, do not depend on them.
FREE_SETTINGS = (
    "output", "device", "view", "profile", "train.num_workers", "train.log_every", "train.checkpoint_every",
    "train.compile", "train.checkpoint_gradients",
)  # fmt: skip


def flatten_settings(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of a nested tree with its full name, such as `train.phases.0.epochs`.

    Lists of groups are numbered from 0; other lists, and empty ones, are values.
    """
    for key, value in tree.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            yield from flatten_settings(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def shorten_names(names: Sequence[str]) -> dict[str, str]:
    """Return as much of the end of each full name as tells it from the others: `seed`, or `0.epochs` and `1.epochs`."""
    parts = {name: re.split(r"[./]", name) for name in names}
    for length in range(1, max(map(len, parts.values()), default=0) + 1):
        short = {name: ".".join(pieces[-length:]) for name, pieces in parts.items()}
        if len(set(short.values())) == len(names):
            return short
    return {name: name for name in names}
