"""A run over a cohort without its pixels: slides, workers that fail and a clock, under the scheduler of real runs."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from run_utils.cohort.schedule import Schedule

REGION_MM = 2048 * 0.25 / 1000  # height of a row of regions, at 0.25 µm/px
SQUARE_SHARE = 0.5  # of the square around a slide's tissue that is tissue (assumed)
LONGEST_FIRST, FIRST_COME, RANDOM = "longest first", "first come", "random order"
HOUR_S = 3600


@dataclass(frozen=True)
class Assumptions:
    """What a simulated run is made of; where nothing else is said, assumed and not measured.

    Attributes:
        workers: that work on slides, one at a time each.
        seconds_per_mm2: of tissue, on a worker of usual speed.
        slide_seconds: of each attempt beside its regions: to open the slide, to find tissue, to end its outputs.
        mean_mm2: tissue of a slide; 200 is what published_numbers.md (4) calls typical.
        deviation: of the logarithm of a slide's tissue, which is lognormal.
        largest_mm2: tissue of any slide; 1,250 is 25 x 50 mm, a glass slide without its label.
        estimate_deviation: of the logarithm of how far the scheduler's guess of a slide's cost is off.
        broken_share: of the slides fail always, at a random place in them.
        attempts: that fail by themselves, after which a slide counts as failed.
        start_seconds: of a worker, from its start till it can take a slide.
        speed_deviation: of the logarithm of a worker's speed.
        mtbf_hours: of one worker, mean time between its failures; 0 for never.
        replacement_seconds: from a worker's failure till another starts in its place.
        handout_seconds: that the driver takes to hand out a slide, one after another.
        bandwidth_gb: a second, that all workers can read together; 0 for no limit.
        mb_per_mm2: that are read: 16 Mpx at 0.25 µm/px of 0.48 bytes, as in the sample (`benchmarks.footprint`).
    """

    workers: int = 1000
    seconds_per_mm2: float = 0.5
    slide_seconds: float = 2.0
    mean_mm2: float = 200.0
    deviation: float = 0.8
    largest_mm2: float = 1250.0
    estimate_deviation: float = 0.3
    broken_share: float = 0.002
    attempts: int = 2
    start_seconds: float = 60.0
    speed_deviation: float = 0.05
    mtbf_hours: float = 24.0
    replacement_seconds: float = 300.0
    handout_seconds: float = 0.002
    bandwidth_gb: float = 0.0
    mb_per_mm2: float = 7.6


@dataclass(frozen=True)
class Cohort:
    """Slides; work is in seconds of a worker of speed 1.

    Attributes:
        work: (N,) of the regions of each slide.
        rows: (N,) integer, of regions.
        breaks_at: (N,) work after which a slide fails, whoever has it; infinite where it does not.
        estimates: (N,) of the work, as the scheduler knows it.
        slide_work: of each attempt beside the regions.
    """

    work: np.ndarray
    rows: np.ndarray
    breaks_at: np.ndarray
    estimates: np.ndarray
    slide_work: float = 0.0

    @property
    def needed(self) -> np.ndarray:
        """Return (N,) work without which no slide can end, done or failed."""
        return self.slide_work + np.minimum(self.work, self.breaks_at)


@dataclass(frozen=True)
class Fleet:
    """Workers.

    Attributes:
        speeds: (M,) of each, as far as reading lets it.
        start_s: see `Assumptions`; the others too.
        mtbf_s: infinite for never.
        replacement_s: see `Assumptions`.
        handout_s: see `Assumptions`.
    """

    speeds: np.ndarray
    start_s: float = 0.0
    mtbf_s: float = math.inf
    replacement_s: float = 0.0
    handout_s: float = 0.0


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        makespan_s: from the start of the workers to the end of the last slide.
        tail_s: its last part, in which some worker found nothing to do.
        spent: work that was done, in seconds of a worker of speed 1.
        useful: what of it counts: each slide once, done or up to where it fails, but none that workers lost for good.
        num_done: slides.
        num_failed: slides that were given up.
        num_failed_whole: those of them that would have ended well: their workers failed.
        num_losses: workers that failed while they had a slide.
        largest_loss_rows: rows of regions that were lost at one failure, at most.
    """

    makespan_s: float = 0.0
    tail_s: float = 0.0
    spent: float = 0.0
    useful: float = 0.0
    num_done: int = 0
    num_failed: int = 0
    num_failed_whole: int = 0
    num_losses: int = 0
    largest_loss_rows: float = 0.0


class _Attempt(NamedTuple):
    name: str
    slide: int
    started_s: float
    is_done: bool
    is_worker_lost: bool


@dataclass
class _Simulation:
    """The state of one run; events are when a worker is free, in order of time."""

    cohort: Cohort
    fleet: Fleet
    schedule: Schedule
    generator: np.random.Generator
    resumes: bool
    outcome: Outcome = field(default_factory=Outcome)
    events: list[tuple[float, int, _Attempt | None]] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    first_idle_s: float = math.inf
    driver_free_s: float = 0.0

    def __post_init__(self) -> None:
        """Take the columns apart: a list is read one by one much faster than an array."""
        self.speeds = self.fleet.speeds.tolist()
        self.work, self.rows = self.cohort.work.tolist(), self.cohort.rows.tolist()
        self.breaks_at, self.needed = self.cohort.breaks_at.tolist(), self.cohort.needed.tolist()
        self.finished = [0.0] * len(self.work)  # work of each slide that is kept
        self.lost_at = [self._next_loss(self.fleet.start_s) for _ in self.speeds]

    def run(self) -> Outcome:
        """Let the workers start, and follow them till every slide has ended."""
        self.events = [(self.fleet.start_s, worker, None) for worker in range(len(self.speeds))]
        while not self.schedule.is_finished:
            now, worker, attempt = heapq.heappop(self.events)
            if attempt is not None:
                self._close(now, worker, attempt)
            if attempt is not None and attempt.is_worker_lost:
                back = now + self.fleet.replacement_s + self.fleet.start_s
                self.lost_at[worker] = self._next_loss(back)
                heapq.heappush(self.events, (back, worker, None))
            else:
                self._hand_out(now, worker)
        self.outcome.tail_s = max(0.0, self.outcome.makespan_s - self.first_idle_s)
        return self.outcome

    def _hand_out(self, now: float, worker: int) -> None:
        """Give a worker the next slide, and foresee how that ends; without one it waits."""
        name = self.schedule.take()
        if name is None:
            self.idle.append(worker)
            self.first_idle_s = min(self.first_idle_s, now)
            return
        slide = int(name)
        self.driver_free_s = start = max(now, self.driver_free_s) + self.fleet.handout_s
        if self.lost_at[worker] < start:  # lost while it had nothing to do, and long replaced
            self.lost_at[worker] = self._next_loss(start)
        stop = min(self.work[slide], self.breaks_at[slide])
        left = self.cohort.slide_work + stop - self.finished[slide]
        end = start + left / self.speeds[worker]
        is_lost = self.lost_at[worker] < end
        is_done = not is_lost and stop == self.work[slide]
        attempt = _Attempt(name, slide, start, is_done, is_lost)
        heapq.heappush(self.events, (min(end, self.lost_at[worker]), worker, attempt))

    def _close(self, now: float, worker: int, attempt: _Attempt) -> None:
        """Count what an attempt gave, and tell the schedule."""
        outcome, slide = self.outcome, attempt.slide
        spent = (now - attempt.started_s) * self.speeds[worker]
        outcome.makespan_s = now
        outcome.spent += spent
        outcome.num_losses += attempt.is_worker_lost
        if attempt.is_done:
            self.schedule.end(attempt.name)
            outcome.num_done += 1
            outcome.useful += self.needed[slide]
            return
        self._keep(slide, spent)
        has_another_go = self.schedule.lose if attempt.is_worker_lost else self.schedule.fail
        if has_another_go(attempt.name):
            if self.idle:
                self._hand_out(now, self.idle.pop())
            return
        is_broken = math.isfinite(self.breaks_at[slide])
        outcome.num_failed += 1
        outcome.num_failed_whole += not is_broken
        outcome.useful += self.needed[slide] if is_broken else 0.0

    def _keep(self, slide: int, spent: float) -> None:
        """Keep the whole rows of a slide that an attempt reached; what is beyond them is lost."""
        row = self.work[slide] / self.rows[slide]
        reached = self.finished[slide] + max(0.0, spent - self.cohort.slide_work)
        kept = math.floor(reached / row + 1e-9) * row if self.resumes else 0.0
        self.outcome.largest_loss_rows = max(self.outcome.largest_loss_rows, (reached - kept) / row)
        self.finished[slide] = kept

    def _next_loss(self, now: float) -> float:
        if math.isinf(self.fleet.mtbf_s):
            return math.inf
        return now + float(self.generator.exponential(self.fleet.mtbf_s))


def simulate(
    cohort: Cohort,
    fleet: Fleet,
    *,
    generator: np.random.Generator,
    order: str = LONGEST_FIRST,
    resumes: bool = True,
    attempts: int = 2,
) -> Outcome:
    """Run a cohort on a fleet, in simulated time.

    Args:
        cohort: slides.
        fleet: workers.
        generator: of the moments at which workers fail, and of a random order.
        order: `LONGEST_FIRST`, by the estimates; `FIRST_COME`; or `RANDOM`.
        resumes: whether a slide goes on after its last whole row of regions; else from its beginning.
        attempts: after which a slide counts as failed.
    """
    count = len(cohort.work)
    costs: Sequence[float] = {
        LONGEST_FIRST: lambda: cohort.estimates.tolist(),
        FIRST_COME: lambda: [0.0] * count,
        RANDOM: lambda: generator.random(count).tolist(),
    }[order]()
    schedule = Schedule({str(slide): cost for slide, cost in enumerate(costs)}, attempts)
    return _Simulation(cohort, fleet, schedule, generator, resumes).run()


def lower_bound(cohort: Cohort, fleet: Fleet) -> tuple[float, str]:
    """Return the seconds below which no order of slides comes, without a single failure of a worker, and why."""
    shared = float(cohort.needed.sum() / fleet.speeds.sum())
    longest = float(cohort.needed.max(initial=0.0) / fleet.speeds.max())
    reason = "all work, shared evenly" if shared >= longest else "the longest slide"
    return fleet.start_s + max(shared, longest), reason


def draw_cohort(assumed: Assumptions, num_slides: int, generator: np.random.Generator) -> Cohort:
    """Draw slides as the assumptions have them."""
    middle = math.log(assumed.mean_mm2) - assumed.deviation**2 / 2
    areas = np.minimum(generator.lognormal(middle, assumed.deviation, num_slides), assumed.largest_mm2)
    work = areas * assumed.seconds_per_mm2
    is_broken = generator.random(num_slides) < assumed.broken_share
    return Cohort(
        work=work,
        rows=np.ceil(np.sqrt(areas / SQUARE_SHARE) / REGION_MM).astype(int),
        breaks_at=np.where(is_broken, generator.random(num_slides) * work, np.inf),
        estimates=work * generator.lognormal(0.0, assumed.estimate_deviation, num_slides),
        slide_work=assumed.slide_seconds,
    )


def draw_fleet(assumed: Assumptions, generator: np.random.Generator) -> Fleet:
    """Draw workers as the assumptions have them; each has its share of the bandwidth, also while others wait."""
    speeds = generator.lognormal(0.0, assumed.speed_deviation, assumed.workers)
    if assumed.bandwidth_gb:
        needed_gb = assumed.workers * assumed.mb_per_mm2 / 1000 / assumed.seconds_per_mm2
        speeds = np.minimum(speeds, assumed.bandwidth_gb / needed_gb)
    return Fleet(
        speeds=speeds,
        start_s=assumed.start_seconds,
        mtbf_s=assumed.mtbf_hours * HOUR_S or math.inf,
        replacement_s=assumed.replacement_seconds,
        handout_s=assumed.handout_seconds,
    )
