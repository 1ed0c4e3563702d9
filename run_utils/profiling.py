"""Where the time of a run goes: stages timed on their device, and traces that Perfetto and TensorBoard open."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from tabulate import tabulate
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import profile, record_function, schedule

from run_utils.files import replacing

logger = logging.getLogger(__name__)

Moment = float | torch.cuda.Event
REST = "the rest"  # of the time, in no stage
SILENT = "6"  # level of Kineto's log at which it says nothing


class StageClock:
    """Adds up how long a device spends in named stages, and names them in a trace; made for one thread.

    On a GPU the stages are measured on its own time line: one ends when the work given within it does. No stage
    waits for the device, and a stage in which the host is busy counts only as far as the GPU has run out of work.

    Args:
        device: that the stages run on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._totals: defaultdict[str, float] = defaultdict(float)
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block as a part of stage `name`."""
        with record_function(name):
            begun = self._now()
            yield
            ended = self._now()
        if isinstance(begun, float) and isinstance(ended, float):
            self._totals[name] += ended - begun
        elif not isinstance(begun, float) and not isinstance(ended, float):
            self._spans.append((name, begun, ended))

    def _now(self) -> Moment:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def read(self) -> dict[str, float]:
        """Return the seconds of each stage so far, in the order of their first ends; waits for the device."""
        if self._spans:
            torch.cuda.synchronize(self.device)
        for name, begun, ended in self._spans:
            self._totals[name] += begun.elapsed_time(ended) / 1000
        self._spans.clear()
        return dict(self._totals)


def format_stages(
    stages: Mapping[str, float], seconds: float, *, unit: str, scale: float, digits: int = 3
) -> str:
    """Return a table in Markdown of stages that follow one another, and of what the time left over comes to.

    Args:
        stages: seconds of each.
        seconds: that all of it took.
        unit: of the last column, such as `ms a patch`.
        scale: by which seconds are multiplied there, such as 1000 over the number of patches.
        digits: after the point, in seconds and in the last column.
    """
    rows = [*stages.items(), (REST, max(seconds - sum(stages.values()), 0.0)), ("together", seconds)]
    number = f".{digits}f"
    cells: Sequence[Sequence[str]] = [
        [name, f"{spent:{number}}", f"{spent / seconds:.1%}", f"{spent * scale:{number}}"]
        for name, spent in rows
    ]
    table: str = tabulate(
        cells,
        ["stage", "s", "share", unit],
        tablefmt="github",
        colalign=("left", *["right"] * 3),
        disable_numparse=True,
    )
    return table


class Tracer:
    """Counts the steps of a run, and traces some of them; without a folder it does nothing.

    Attributes:
        path: the trace, once it is written.
    """

    def __init__(
        self, folder: Path | None, name: str, steps: tuple[int, int, int], *, all_threads: bool
    ) -> None:
        self.path: Path | None = None
        self._folder = folder
        self._name = name
        self._left = sum(steps)
        self._profile: profile | None = None
        if folder is not None:
            wait, warmup, active = steps
            self._profile = profile(
                schedule=schedule(wait=wait, warmup=warmup, active=active, repeat=1),
                on_trace_ready=self._write,
                experimental_config=_ExperimentalConfig(profile_all_threads=all_threads),
            )
            self._profile.start()

    def step(self) -> None:
        """Say that a step has ended; after the last one that is traced this costs nothing."""
        if self._profile is None:
            return
        self._profile.step()
        self._left -= 1
        if not self._left:
            self.close()

    def close(self) -> None:
        """Stop tracing; what there is of a trace is written."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
            if self.path is None:
                logger.warning("no trace: the run ended %d steps too early; profile a longer one", self._left)

    def _write(self, finished: profile) -> None:
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._name}.{time.time_ns()}.pt.trace.json.gz"
        with replacing(path, path.with_name(f".{path.name}")) as temporary:
            finished.export_chrome_trace(str(temporary))
        self.path = path
        logger.info("wrote %s: open it at https://ui.perfetto.dev, or in TensorBoard", path)


@contextlib.contextmanager
def profile_to(
    folder: Path | None,
    *,
    name: str,
    wait: int = 1,
    warmup: int = 1,
    active: int = 3,
    all_threads: bool = False,
) -> Iterator[Tracer]:
    """Trace steps of the block, which calls `step()` on what it is given after each of them.

    Args:
        folder: for `<name>.<time in ns>.pt.trace.json.gz`, made where it is missing; None does nothing at all.
        name: the trace's first name.
        wait: steps before anything is recorded.
        warmup: steps recorded and dropped, in which the profiler sets itself up.
        active: steps that the trace holds; fewer where the block ends before, which a warning says for none.
        all_threads: record what other threads of the process do too, not only this one and its backward passes.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("KINETO_LOG_LEVEL", SILENT)  # it calls a missing GPU an error
    tracer = Tracer(folder, name, (wait, warmup, active), all_threads=all_threads)
    try:
        yield tracer
    finally:
        tracer.close()
