"""One slide's regions into its journal, and its writers, which follow the journal while it grows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dataloader.tissue import Tissue
from models.nuclei import Nuclei, NucleusType
from run_utils.inference.journal import Journal
from run_utils.inference.maps import count_tiles
from run_utils.inference.monitor import MM2_PER_UM2, Monitor, Pauses
from run_utils.inference.output_folder import Outputs
from run_utils.inference.pipeline import find_regions, number_parts, stream_regions
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import Predictor
from run_utils.outputs import Part, SlideResult, write_output

logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """Nuclei of a slide.

    Attributes:
        num_nuclei: all of them.
        per_type: those of each type, by name.
        mm2: that were looked at, or None where µm/px is unknown.
    """

    num_nuclei: int = 0
    per_type: Counter[str] = field(default_factory=Counter)
    mm2: float | None = None


def stream_slide(
    result: SlideResult,
    tissue: Tissue | None,
    predictor: Predictor,
    plan: Plan,
    outputs: Outputs,
    *,
    head: dict[str, Any],
    is_done: Callable[[], bool],
    monitor: Monitor,
) -> Tally | None:
    """Find a slide's nuclei, region by region, and write its outputs while it is being worked on.

    Each region is added to a journal, from which the outputs are written; a process that was killed goes on
    after the last region in it. The journal stays: `Outputs.remove_unfinished` removes it once the slide's end
    is recorded.

    Args:
        result: the slide; its `parts` are replaced by those that are found.
        tissue: where to look; None for everywhere.
        predictor: gives the maps.
        plan: how to cut up and decode the slide.
        outputs: what to write, and where.
        head: what the nuclei depend on; a journal of another head is started anew.
        is_done: asked once the slide is ours: whether another run has done it in the meantime.
        monitor: counts tiles, nuclei and seconds, and shows them.

    Returns:
        What was found; None where another run left nothing to write.

    Raises:
        JournalBusyError: another process works on this slide.
        OSError: reading the slide or writing an output failed; the journal stays.
    """
    grid = plan.cut_regions(result.shape, predictor.geometry)
    regions = find_regions(grid, tissue)
    head = {**head, "regions": [region.index for region in regions]}
    journal = Journal(outputs.journal_path(result.name), head)
    try:
        names = outputs.pending(result.name, is_done=is_done())
        if not names:
            return None
        left = regions[len(journal) :]
        if len(left) < len(regions):
            logger.info("%s: goes on after %d of %d regions", result.name, len(journal), len(regions))
        boxes = (region.box_yxyx for region in left)
        num_tiles = count_tiles(result.shape, boxes, predictor, plan, tissue)
        mm2 = _area_mm2(result, tissue)
        result = replace(result, parts=lambda: number_parts(journal.records(), regions, grid, plan.halo))
        bar = monitor.show(result.name, num_tiles, mm2 and mm2 * len(left) / max(len(regions), 1))
        found = stream_regions(result.read, grid, left, predictor, plan, tissue=tissue, monitor=monitor)
        with bar, closing(found), _follow(result, names, outputs, journal, monitor) as followers:
            for owned in found:
                journal.append(owned)
                _raise_first(followers)
            journal.finish()
        return replace(followers[0].result(), mm2=mm2)
    finally:
        journal.release()


@contextmanager
def _follow(
    result: SlideResult, names: Sequence[str], outputs: Outputs, journal: Journal, monitor: Monitor
) -> Iterator[list[Future]]:
    """Run a tally and a writer for each output beside the block; all are done, or stopped, at its end."""
    threads = ThreadPoolExecutor(len(names) + 1, thread_name_prefix="write")

    def write(name: str) -> None:
        with monitor.stage(f"write {name}") as pauses:
            waiting = replace(result, parts=lambda: _leave_out_waiting(result.parts(), pauses))
            write_output(
                waiting, outputs.folder, name, options=outputs.options, scratch_dir=outputs.scratch_dir
            )

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


def _area_mm2(result: SlideResult, tissue: Tissue | None) -> float | None:
    if result.mpp is None:
        return None
    area = result.shape[0] * result.shape[1] if tissue is None else tissue.area
    return float(area) * result.mpp**2 * MM2_PER_UM2


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
