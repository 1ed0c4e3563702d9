"""Simulate cohorts on workers that fail, handed out by the real scheduler: ``python -m benchmarks.cohort_simulation``.

Nothing here is a measured time: it shows what the order of slides, and going on within a slide, are worth under the
assumptions listed, each of which is an option. The same slides and workers are run in four ways.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks.charts import size_curves
from benchmarks.figures import Figure, state
from benchmarks.simulated_cohort import (
    FIRST_COME,
    HOUR_S,
    LONGEST_FIRST,
    RANDOM,
    Assumptions,
    Fleet,
    Outcome,
    draw_cohort,
    draw_fleet,
    lower_bound,
    simulate,
)

OURS, OTHER = LONGEST_FIRST, FIRST_COME
WAYS = {
    OURS: (LONGEST_FIRST, True),
    OTHER: (FIRST_COME, True),
    RANDOM: (RANDOM, True),
    "longest first, no resuming": (LONGEST_FIRST, False),
}
HEADINGS = (
    "way",
    "hours",
    "over the bound",
    "used %",
    "done twice %",
    "tail min",
    "lost workers",
    "most rows lost",
    "done",
    "failed",
    "of them whole",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate each size of cohort in each way; print tables and state the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=Assumptions.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--slides", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=10, help="of slides, workers and failures")
    for each in dataclasses.fields(Assumptions):
        name = f"--{each.name.replace('_', '-')}"
        parser.add_argument(name, type=type(each.default), default=each.default, help="see below")
    parser.add_argument("--chart", type=Path, help="SVG to write: time over the bound, by number of slides")
    options = vars(parser.parse_args(arguments))
    sizes, seed, chart = (options.pop(name) for name in ("slides", "seed", "chart"))
    assumed = Assumptions(**options)
    print(", ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(assumed).items()), flush=True)
    over_bound = {num_slides: _compare(assumed, num_slides, seed) for num_slides in sizes}
    if chart is not None:
        curves = {way: [(size, over[way]) for size, over in over_bound.items()] for way in (OURS, OTHER)}
        title = f"time of a cohort on {assumed.workers:,} workers, times the lower bound"
        chart.write_text(size_curves(curves, title, "slides"))


def _compare(assumed: Assumptions, num_slides: int, seed: int) -> dict[str, float]:
    """Run one cohort in each way, which all meet the same slides and workers; return makespans over the bound."""
    generator = np.random.default_rng(seed)
    cohort, fleet = draw_cohort(assumed, num_slides, generator), draw_fleet(assumed, generator)
    mm2 = cohort.work.sum() / assumed.seconds_per_mm2
    bound_s, reason = lower_bound(cohort, fleet)
    outcomes = {
        way: simulate(
            cohort,
            fleet,
            generator=np.random.default_rng(seed),
            order=order,
            resumes=resumes,
            attempts=assumed.attempts,
        )
        for way, (order, resumes) in WAYS.items()
    }
    mm2 = cohort.work.sum() / assumed.seconds_per_mm2
    print(
        f"\n{num_slides:,} slides, {mm2:,.0f} mm², {len(fleet.speeds):,} workers; none can end before ",
        end="",
    )
    print(f"{bound_s / HOUR_S:.2f} h ({reason})")
    rows = [_row(way, outcome, bound_s, fleet) for way, outcome in outcomes.items()]
    print(tabulate(rows, HEADINGS, floatfmt=("", ".3f", ".3f", ".1f", ".3f", ".1f", "", ".2f")))
    _state(num_slides, outcomes, bound_s, fleet)
    return {way: outcome.makespan_s / bound_s for way, outcome in outcomes.items()}


def _row(way: str, outcome: Outcome, bound_s: float, fleet: Fleet) -> tuple[object, ...]:
    return (
        way,
        outcome.makespan_s / HOUR_S,
        outcome.makespan_s / bound_s,
        100 * outcome.useful / (fleet.speeds.sum() * outcome.makespan_s),
        100 * (outcome.spent / outcome.useful - 1),
        outcome.tail_s / 60,
        outcome.num_losses,
        outcome.largest_loss_rows,
        outcome.num_done,
        outcome.num_failed,
        outcome.num_failed_whole,
    )


def _state(num_slides: int, outcomes: dict[str, Outcome], bound_s: float, fleet: Fleet) -> None:
    ours = outcomes[OURS]
    what = f"simulated: {num_slides:,} slides on {len(fleet.speeds):,} workers"
    for way, outcome in outcomes.items():
        if way != OURS:
            state(Figure(what, ours.makespan_s / HOUR_S, "h", outcome.makespan_s / HOUR_S, way))
    state(Figure(f"{what}, over the lower bound", ours.makespan_s / bound_s, "times"))
    again = {way: 100 * (outcome.spent / outcome.useful - 1) for way, outcome in outcomes.items()}
    *_, restarting = again
    state(Figure(f"{what}, work done twice", again[OURS], "%", again[restarting], restarting))


if __name__ == "__main__":
    main()
