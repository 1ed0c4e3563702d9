"""How each slide of a run ended, and the table of them that the run prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

DONE, SKIPPED, FAILED = "done", "skipped", "failed"
IS_BUSY = "another run is working on it"
MOST_LISTED = 50  # slides that a table has a line for each of; of more, those that failed or were busy


@dataclass
class SlideStatus:
    """How one slide ended.

    Attributes:
        name: of its outputs.
        status: done, skipped or failed.
        reason: why, where it was not done.
        num_nuclei: nuclei found.
        per_type: nuclei of each type, by name.
        seconds: wall time, reading and writing included.
        num_pixels: at the working resolution.
        mm2: tissue looked at, or None where µm/px is unknown.
        stain: how it was normalised: method, target and, where it was, its own statistics as source.
        made_with: what settings left open became: device, predictor, precision, window …
    """

    name: str
    status: str
    reason: str = ""
    num_nuclei: int = 0
    per_type: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    num_pixels: int = 0
    mm2: float | None = None
    stain: dict[str, Any] = field(default_factory=dict)
    made_with: dict[str, Any] = field(default_factory=dict)


def summarise(statuses: Sequence[SlideStatus]) -> str:
    """Return a table with a line for each slide, and why those that were not done were not; of many, only the bad."""
    rest: Counter[str] = Counter()
    if len(statuses) > MOST_LISTED:
        good = [one for one in statuses if one.status != FAILED and one.reason != IS_BUSY]
        rest.update(": ".join(filter(None, (one.status, one.reason))) for one in good)
        statuses = [one for one in statuses if one.status == FAILED or one.reason == IS_BUSY]
    kinds = list(dict.fromkeys(kind for status in statuses for kind in status.per_type))
    headings = ["slide", "status", "nuclei", *kinds, "mm²", "seconds", "Mpx/s"]
    table = tabulate([list(_row(status, kinds)) for status in statuses], headings, floatfmt=".2f")
    reasons = [f"{s.name}: {s.status}: {s.reason}" for s in statuses if s.reason]
    return "\n".join([*[table] * bool(statuses), *reasons, *(f"{rest[kind]} slides {kind}" for kind in rest)])


def _row(status: SlideStatus, kinds: Sequence[str]) -> Iterator[object]:
    yield status.name
    yield status.status
    if status.status != DONE:
        return
    yield status.num_nuclei
    yield from (status.per_type.get(kind, 0) for kind in kinds)
    yield status.mm2
    yield status.seconds
    yield status.num_pixels / 1e6 / status.seconds
