"""How a benchmark states a figure: a line for the reader, and a record for `benchmarks.all`, which gathers them."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

FILE_VARIABLE = "HOVERNET_FIGURES"  # environment variable: JSON lines are added to the file that it names


@dataclass(frozen=True)
class Figure:
    """One thing that was measured, beside the straightforward or the reference's way of doing it, in the same run.

    Attributes:
        what: was measured.
        ours: its value.
        unit: of both values.
        reference: the other way's value; None where there is no other.
        way: the other way, in a few words.
        is_rate: whether more is better, as of patches/s.
        asked: what was aimed at, such as "at least 8 times"; empty for nothing.
    """

    what: str
    ours: float
    unit: str
    reference: float | None = None
    way: str = ""
    is_rate: bool = False
    asked: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is; None without another way."""
        if not self.reference or not self.ours:
            return None
        return self.ours / self.reference if self.is_rate else self.reference / self.ours

    def __str__(self) -> str:
        """Return the line that is printed."""
        text = f"{self.what}: {self.ours:.4g} {self.unit}"
        if self.reference is not None:
            text += f", {self.way}: {self.reference:.4g} {self.unit}"
        if self.ratio is not None:
            text += f", {self.ratio:.1f} times"
        return f"{text} (asked: {self.asked})" if self.asked else text


def state(figure: Figure) -> None:
    """Print a figure and, where `benchmarks.all` runs the benchmark, keep it."""
    print(figure, flush=True)
    path = os.environ.get(FILE_VARIABLE)
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps(dataclasses.asdict(figure)) + "\n")
