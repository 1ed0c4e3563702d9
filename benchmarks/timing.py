"""The one clock of the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def median_ms(function: Callable[[], Result], repeats: int) -> tuple[float, Result]:
    """Return the median time of ``repeats`` calls in ms, after one that is not counted, and what the last gave."""
    result = function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times), result
