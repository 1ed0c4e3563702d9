"""Which slide a free worker gets: the longest first, so that none is left to run alone at the end.

Nothing here knows of processes, machines or clocks: a cluster asks it, and so does a simulation of one.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping

MOST_LOSSES = 5  # workers that a slide may lose before it is taken for what kills them, by its memory for one


class Schedule:
    """Hands out slides by falling cost, and again where an attempt failed.

    A slide that failed goes behind those that nobody has tried: what is wrong with it holds up nothing else. One
    whose worker was lost keeps its place: at the end of a cohort a long one would run alone.

    Args:
        costs: of each slide by name, in any one unit, such as pixels; of two alike the first comes first.
        attempts: after which a slide counts as failed.

    Attributes:
        running: slides that are being worked on.
    """

    def __init__(self, costs: Mapping[str, float], attempts: int = 2) -> None:
        self.running: set[str] = set()
        self._attempts = attempts
        self._failures: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._rank = {name: (-cost, place) for place, (name, cost) in enumerate(costs.items())}
        self._waiting = [(0, *rank, name) for name, rank in self._rank.items()]
        heapq.heapify(self._waiting)

    @property
    def is_finished(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self.num_left

    @property
    def num_left(self) -> int:
        """How many slides wait or run."""
        return len(self._waiting) + len(self.running)

    def take(self) -> str | None:
        """Return the slide to do next; None where none waits, though one that runs may come back."""
        if not self._waiting:
            return None
        name = heapq.heappop(self._waiting)[-1]
        self.running.add(name)
        return name

    def end(self, name: str) -> None:
        """Say that a slide is over: done, or skipped for good."""
        self.running.remove(name)

    def fail(self, name: str) -> bool:
        """Say that an attempt failed; return whether the slide will be tried again."""
        self._failures[name] += 1
        return self._wait_again(name, is_left=self._failures[name] < self._attempts)

    def lose(self, name: str) -> bool:
        """Say that the worker of a slide was lost, which says little of the slide; return whether it is tried again."""
        self._losses[name] += 1
        return self._wait_again(name, is_left=self._losses[name] < MOST_LOSSES)

    def _wait_again(self, name: str, *, is_left: bool) -> bool:
        self.running.remove(name)
        if is_left:
            heapq.heappush(self._waiting, (self._failures[name], *self._rank[name], name))
        return is_left
