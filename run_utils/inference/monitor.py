"""What a run shows while it works: a progress bar with its rates, and the seconds of each stage."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from tabulate import tabulate
from torch.profiler import record_function
from tqdm import tqdm

from run_utils.profiling import Tracer

MM2_PER_UM2 = 1e-6
COPY, NETWORK = "copy", "network"  # stages that predictors tell


class Pauses:
    """Time within a stage in which it only waited."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the block's time out of the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


class Monitor:
    """Counts tiles, nuclei and seconds of one run, from any thread; draws a bar for the slide in work.

    Args:
        tracer: is told of each batch of tiles; None for nobody.
        has_bar: whether bars are drawn.
    """

    def __init__(self, tracer: Tracer | None = None, *, has_bar: bool = True) -> None:
        self._has_bar = has_bar
        self._tracer = tracer
        self._seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._is_stopped = False
        self._bar: tqdm | None = None
        self._shown = threading.Lock()
        self._mm2_per_tile: float | None = None
        self._num_nuclei = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[Pauses]:
        """Add the time that the block takes, in this thread, to a stage; what it pauses is left out."""
        start, pauses = time.perf_counter(), Pauses()
        try:
            with record_function(name):
                yield pauses
        finally:
            self.add(name, time.perf_counter() - start - pauses.seconds)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a stage that were measured elsewhere, such as on a GPU."""
        with self._lock:
            self._seconds[name] += seconds

    def stop(self) -> None:
        """Let each thread that counts its next tiles end with KeyboardInterrupt."""
        self._is_stopped = True

    def check(self) -> None:
        """Raise KeyboardInterrupt where the run is to stop."""
        if self._is_stopped:
            raise KeyboardInterrupt

    @contextmanager
    def show(self, name: str, num_tiles: int, area_mm2: float | None) -> Iterator[None]:
        """Show a bar while a slide is worked on, unless another one's is there.

        Args:
            name: of the slide.
            num_tiles: tiles to predict.
            area_mm2: that they cover, or None where µm/px is unknown.
        """
        if num_tiles < 2 or not self._has_bar or not self._shown.acquire(blocking=False):
            yield
            return
        self._num_nuclei = 0
        self._mm2_per_tile = area_mm2 / num_tiles if area_mm2 else None
        try:
            with tqdm(total=num_tiles, desc=name, unit="tile", leave=False) as self._bar:
                yield
        finally:
            self._bar = None
            self._shown.release()

    def count_tiles(self, count: int) -> None:
        """Count the predicted tiles of a batch."""
        self.check()
        if self._tracer is not None:
            self._tracer.step()
        if self._bar is not None:
            self._bar.update(count)
            rate = self._bar.format_dict["rate"]
            if self._mm2_per_tile and rate:
                speed = f"{rate * self._mm2_per_tile:.2g} mm²/s"
                self._bar.set_postfix_str(f"{speed}, {self._num_nuclei:,} nuclei", refresh=False)

    def count_nuclei(self, count: int) -> None:
        """Count nuclei that are found and kept."""
        self._num_nuclei += count

    def table(self, wall_seconds: float, mm2: float = 0.0) -> str:
        """Return seconds per stage; stages overlap, so that they may add up to more than the whole.

        Args:
            wall_seconds: of the whole run.
            mm2: that were looked at; 0 leaves out the seconds per mm².
        """
        stages = sorted(self._seconds.items(), key=lambda item: -item[1])
        headings = ["stage (they overlap)", "thread seconds", "% of the run"] + ["s/mm²"] * (mm2 > 0)
        rows = [
            (name, seconds, 100 * seconds / max(wall_seconds, 1e-9), seconds / mm2 if mm2 else 0.0)
            for name, seconds in [*stages, ("whole run", wall_seconds)]
        ]
        return tabulate(
            [row[: len(headings)] for row in rows],
            headings,
            floatfmt=("", ".1f", ".0f", ".2f")[: len(headings)],
        )
