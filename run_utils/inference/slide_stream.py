"""One slide's regions into its journal, and its writers, which follow the journal while it grows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataloader.grid import TileGrid
from dataloader.tissue import Tissue
from models.nuclei import Nuclei, NucleusType
from run_utils.inference.journal import Journal
from run_utils.inference.maps import count_tiles
from run_utils.inference.monitor import Monitor, Pauses
from run_utils.inference.pipeline import find_regions, number_parts, stream_regions
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import Predictor
from run_utils.outputs import Part, SlideResult, output_path, write_output

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"  # folder in the output folder: journals, and outputs that are being written


@dataclass
class Tally:
    """Nuclei of a slide.

    Attributes:
        num_nuclei: all of them.
        per_type: those of each type, by name.
    """

    num_nuclei: int = 0
    per_type: Counter[str] = field(default_factory=Counter)


def stream_slide(
    result: SlideResult,
    tissue: Tissue | None,
    predictor: Predictor,
    plan: Plan,
    outputs: Outputs,
    *,
    head: dict[str, Any],
    area_mm2: float | None,
    monitor: Monitor,
) -> Tally:
    """Find a slide's nuclei, region by region, and write its outputs while it is being worked on.

    Each region is added to a journal, from which the outputs are written; a process that was killed goes on
    after the last region in it. The journal goes when every output is there under its name.

    Args:
        result: the slide; its `parts` are replaced by those that are found.
        tissue: where to look; None for everywhere.
        predictor: gives the maps.
        plan: how to cut up and decode the slide.
        outputs: what to write, and where.
        head: what the nuclei depend on; a journal of another head is started anew.
        area_mm2: of the tissue, or None where µm/px is unknown; for the rate that is shown.
        monitor: counts tiles, nuclei and seconds, and shows them.

    Raises:
        JournalBusyError: another process works on this slide.
        OSError: reading the slide or writing an output failed; the journal stays.
    """
    grid = TileGrid(result.shape, plan.region_size, plan.halo)
    regions = find_regions(grid, tissue)
    head = {**head, "regions": [region.index for region in regions]}
    is_written = False
    with outputs.scratch_folder() as scratch_dir:
        journal = Journal(scratch_dir / f"{result.name}.journal", head)
        try:
            parts = lambda: number_parts(journal.records(), regions, grid, plan.halo)  # noqa: E731
            left = regions[len(journal) :]
            if len(left) < len(regions):
                logger.info("%s: goes on after %d of %d regions", result.name, len(journal), len(regions))
            with _follow(replace(result, parts=parts), outputs, scratch_dir, journal, monitor) as followers:
                num_tiles = count_tiles((region.box_yxyx for region in left), predictor, plan, tissue)
                share = len(left) / max(len(regions), 1)
                with monitor.show(result.name, num_tiles, area_mm2 and area_mm2 * share):
                    for owned in stream_regions(
                        result.read, grid, left, predictor, plan, tissue=tissue, monitor=monitor
                    ):
                        journal.append(owned)
                        _raise_first(followers)
                journal.finish()
            is_written = True
            tally: Tally = followers[0].result()
            return tally
        finally:
            journal.release(remove=is_written)


@dataclass(frozen=True)
class Outputs:
    """What is written of a slide, and where.

    Attributes:
        folder: of the run.
        names: rows of `WRITERS`.
        overwrite: write again what is there.
        options: of the writers.
    """

    folder: Path
    names: Sequence[str]
    overwrite: bool = False
    options: dict[str, bool] = field(default_factory=dict)

    def pending(self, slide_name: str) -> list[str]:
        """Return the outputs of a slide that are to be written."""
        if self.overwrite:
            return list(self.names)
        return [name for name in self.names if not output_path(self.folder, slide_name, name).exists()]

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """Give the folder for what is not finished; it goes once it is empty."""
        path = self.folder / UNFINISHED
        path.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            with suppress(OSError):
                path.rmdir()


@contextmanager
def _follow(
    result: SlideResult, outputs: Outputs, scratch_dir: Path, journal: Journal, monitor: Monitor
) -> Iterator[list[Future]]:
    """Run a tally and a writer for each output beside the block; all are done, or stopped, at its end."""
    names = outputs.pending(result.name)  # a run beside this one may have written them in the meantime
    threads = ThreadPoolExecutor(len(names) + 1, thread_name_prefix="write")

    def write(name: str) -> None:
        with monitor.stage(f"write {name}") as pauses:
            waiting = replace(result, parts=lambda: _leave_out_waiting(result.parts(), pauses))
            write_output(waiting, outputs.folder, name, options=outputs.options, scratch_dir=scratch_dir)

    try:
        followers: list[Future] = [threads.submit(_tally, result, monitor)]
        followers += [threads.submit(write, name) for name in names]
        yield followers
        for follower in followers:
            follower.result()
    finally:
        journal.close()  # stops those that still wait for more
        threads.shutdown()


def _leave_out_waiting(parts: Iterator[Part], pauses: Pauses) -> Iterator[Part]:
    while True:
        with pauses.pause():
            part = next(parts, None)
        if part is None:
            return
        yield part


def _raise_first(followers: Sequence[Future]) -> None:
    """Raise what a writer met as soon as it has met it, not at the end of the slide."""
    for follower in followers:
        if follower.done():
            follower.result()


def _tally(result: SlideResult, monitor: Monitor) -> Tally:
    tally = Tally()
    for part in result.parts():
        tally.num_nuclei += len(part.nuclei)
        tally.per_type.update(count_types(part.nuclei, result.types))
        monitor.count_nuclei(len(part.nuclei))
    return tally


def count_types(nuclei: Nuclei, types: tuple[NucleusType, ...] | None) -> Counter[str]:
    """Return how many nuclei each type has, by name, background left out unless some nucleus has it."""
    if types is None or nuclei.types is None:
        return Counter()
    counts = np.bincount(nuclei.types, minlength=len(types))
    return Counter(
        {kind.name: int(n) for kind, n in zip(types, counts, strict=True) if n or kind != types[0]}
    )
