"""How a benchmark states a figure: a line for the reader, and a record for `benchmarks.all`, which gathers them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

FILE_VARIABLE = "HOVERNET_FIGURES"  # environment variable: JSON lines are added to the file that it names
TIMES = "times"
AIM = re.compile(r"(at least|at most)?\s*(\d[\d,]*\.?\d*)\s*([^\s,;]*)")


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
        asked: what was aimed at: "at least 8 times" is of the ratio, "at most 1 s" of ours; empty for nothing.
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

    @property
    def asked_ratio(self) -> float | None:
        """The ratio that was aimed at; None where it was not a ratio."""
        aim = AIM.search(self.asked)
        is_of_ratio = aim is not None and aim[3] == TIMES and self.unit != TIMES
        return _limit(aim) if aim is not None and is_of_ratio else None

    @property
    def is_reached(self) -> bool | None:
        """Whether it is what was asked; None where nothing was, or nothing that a number can tell.

        Without "at least" or "at most", a ratio and a rate are to be at least what was asked, all else at most.
        """
        aim = AIM.search(self.asked)
        is_of_ratio = self.asked_ratio is not None
        value = self.ratio if is_of_ratio else self.ours
        if aim is None or value is None:
            return None
        is_least = aim[1] == "at least" if aim[1] else self.is_rate or is_of_ratio
        return value >= _limit(aim) if is_least else value <= _limit(aim)

    def __str__(self) -> str:
        """Return the line that is printed."""
        text = f"{self.what}: {number(self.ours)} {self.unit}".rstrip()
        if self.reference is not None:
            text += f", {self.way}: {number(self.reference)} {self.unit}".rstrip()
        if self.ratio is not None:
            text += f", {number(self.ratio)} times"
        return f"{text} (asked: {self.asked})" if self.asked else text


def state(figure: Figure) -> None:
    """Print a figure and, where `benchmarks.all` runs the benchmark, keep it."""
    print(figure, flush=True)
    path = os.environ.get(FILE_VARIABLE)
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps(dataclasses.asdict(figure), default=float) + "\n")


def number(value: float) -> str:
    """Return a number as people write it: 12,345; 123; 12.3; 1.23; 0.1234."""
    size = abs(value)
    if size < 1:
        return f"{value:.4g}"
    digits = 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{digits}f}"


def _limit(aim: re.Match[str]) -> float:
    return float(aim[2].replace(",", ""))
