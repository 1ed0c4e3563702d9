"""`profile=true`: where the time of a run's first steps goes, as a table of stages and a trace."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from run_utils.files import replacing
from run_utils.profiling import Tracer, format_stages, profile_to
from run_utils.training.throughput import ThroughputMeter, Usage

logger = logging.getLogger(__name__)

STAGES_NAME = "stages.txt"
SKIPPED, TIMED = 3, 10  # steps: workers start and caches fill in the first, the table is of those that follow
WARMUP, TRACED = 2, 3  # steps: then the profiler starts, which slows them down, and the trace is made
NUM_STEPS = SKIPPED + TIMED + WARMUP + TRACED


class StepProfile:
    """Times the stages of some steps, then has some more traced.

    Args:
        folder: for the table; None does nothing at all.
        meter: that knows the stages.
        tracer: to be told of every step.
    """

    def __init__(self, folder: Path | None, meter: ThroughputMeter, tracer: Tracer) -> None:
        self.folder = folder
        self.meter = meter
        self.tracer = tracer
        self._num_steps = 0
        self._begun = Usage()

    def step(self) -> None:
        """Say that a step has ended; the device is waited for after two of them."""
        self._num_steps += 1
        if self.folder is not None and self._num_steps == SKIPPED:
            self._begun = self.meter.read()
        if self.folder is not None and self._num_steps == SKIPPED + TIMED:
            self._write(self.meter.read() - self._begun, self.folder / STAGES_NAME)
        self.tracer.step()

    def _write(self, usage: Usage, path: Path) -> None:
        title = f"{TIMED} steps, {usage.patches} patches, {usage.patches_per_second:.1f} patches/s"
        table = format_stages(
            usage.stages, usage.seconds, unit="ms a patch", scale=1000 / max(usage.patches, 1)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(f"{title}\n\n{table}\n", encoding="utf-8")
        logger.info("%s\n%s", title, table)


@contextlib.contextmanager
def profile_steps(folder: Path | None, meter: ThroughputMeter) -> Iterator[StepProfile]:
    """Give what is to be told of every step of the block; a folder of None makes it do nothing."""
    with profile_to(folder, name="train", wait=SKIPPED + TIMED, warmup=WARMUP, active=TRACED) as tracer:
        yield StepProfile(folder, meter, tracer)
