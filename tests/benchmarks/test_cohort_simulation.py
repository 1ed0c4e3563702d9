"""Simulated cohorts keep to what is known of schedules, and to what a real run promises."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from benchmarks import cohort_simulation
from benchmarks.simulated_cohort import (
    FIRST_COME,
    LONGEST_FIRST,
    RANDOM,
    Assumptions,
    Cohort,
    Fleet,
    draw_cohort,
    draw_fleet,
    lower_bound,
    simulate,
)

ORDERS = (LONGEST_FIRST, FIRST_COME, RANDOM)
HARD = Assumptions(workers=20, mtbf_hours=1.0, broken_share=0.05, replacement_seconds=30)


def cohort_of(*work: float, slide_work: float = 0.0) -> Cohort:
    seconds = np.array(work, float)
    never = np.full(len(work), np.inf)
    return Cohort(seconds, np.full(len(work), 10), never, estimates=seconds, slide_work=slide_work)


def fleet_of(count: int, **settings: float) -> Fleet:
    return Fleet(np.ones(count), **settings)


def run(cohort: Cohort, fleet: Fleet, *, seed: int = 0, **settings):
    return simulate(cohort, fleet, generator=np.random.default_rng(seed), **settings)


def shortest_makespan(work: np.ndarray, count: int) -> float:
    """Try every way of giving slides to workers."""
    ways = np.array(list(itertools.product(range(count), repeat=len(work))))
    return min(max(work[way == worker].sum() for worker in range(count)) for way in ways)


@pytest.mark.parametrize("order", ORDERS)
def test_equal_slides_without_failures_take_as_many_rounds_as_needed(order: str) -> None:
    outcome = run(cohort_of(*[30.0] * 23, slide_work=2.0), fleet_of(5, start_s=60.0), order=order)
    assert outcome.makespan_s == pytest.approx(60 + 5 * 32)  # 23 slides on 5 workers: 5 rounds
    assert outcome.tail_s == pytest.approx(32)  # two workers have nothing to do in the last one
    assert outcome.spent == outcome.useful == pytest.approx(23 * 32)


@pytest.mark.parametrize(
    ("work", "count", "longest_first"), [((3, 3, 2, 2, 2), 2, 7), ((5, 5, 4, 4, 3, 3, 3), 3, 11)]
)
def test_longest_first_meets_grahams_worst_cases(
    work: tuple[int, ...], count: int, longest_first: int
) -> None:
    best = shortest_makespan(np.array(work), count)
    assert run(cohort_of(*work), fleet_of(count)).makespan_s == longest_first
    assert longest_first == pytest.approx((4 / 3 - 1 / (3 * count)) * best)  # Graham 1969, tight


@pytest.mark.parametrize("seed", range(10))
def test_longest_first_keeps_to_grahams_bound(seed: int) -> None:
    work = np.random.default_rng(seed).lognormal(0, 1, 6)
    cohort, fleet = cohort_of(*work), fleet_of(3)
    best = shortest_makespan(work, 3)
    assert lower_bound(cohort, fleet)[0] <= best + 1e-9
    assert best - 1e-9 <= run(cohort, fleet).makespan_s <= (4 / 3 - 1 / 9) * best + 1e-9


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_no_order_leaves_a_worker_idle_while_slides_wait(order: str, seed: int) -> None:
    cohort, fleet = cohort_of(*np.random.default_rng(seed).lognormal(0, 1, 200)), fleet_of(16)
    at_most = cohort.work.sum() / 16 + (1 - 1 / 16) * cohort.work.max()  # Graham 1966, any order
    assert lower_bound(cohort, fleet)[0] <= run(cohort, fleet, seed=seed, order=order).makespan_s <= at_most


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("resumes", [True, False])
def test_every_slide_ends_once_and_only_broken_ones_fail(order: str, resumes: bool) -> None:
    generator = np.random.default_rng(3)
    cohort, fleet = draw_cohort(HARD, 1500, generator), draw_fleet(HARD, generator)
    outcome = run(cohort, fleet, order=order, resumes=resumes)
    is_broken = np.isfinite(cohort.breaks_at)
    assert outcome.num_losses > 20
    assert outcome.num_done + outcome.num_failed == 1500
    assert outcome.num_failed - outcome.num_failed_whole == is_broken.sum() > 0
    assert outcome.makespan_s >= lower_bound(cohort, fleet)[0]
    assert (outcome.num_failed_whole == 0) or not resumes
    assert outcome.useful <= cohort.needed.sum() * (1 + 1e-9)


def test_a_lost_worker_costs_at_most_a_row() -> None:
    generator = np.random.default_rng(4)
    cohort, fleet = draw_cohort(HARD, 1500, generator), draw_fleet(HARD, generator)
    ours, restarting = run(cohort, fleet), run(cohort, fleet, resumes=False)
    attempts_again = ours.num_losses + np.isfinite(cohort.breaks_at).sum()
    rows = cohort.work / cohort.rows
    assert 0 < ours.largest_loss_rows <= 1 < restarting.largest_loss_rows
    assert ours.spent - ours.useful <= attempts_again * (rows.max() + cohort.slide_work)
    assert ours.makespan_s < restarting.makespan_s


def test_a_slide_goes_on_after_its_last_whole_row() -> None:
    once = dataclasses.replace(cohort_of(100.0), breaks_at=np.array([57.0]))
    outcome = run(once, fleet_of(1), attempts=3)
    assert (outcome.num_done, outcome.num_failed) == (0, 1)
    assert outcome.makespan_s == pytest.approx(57 + 7 + 7)  # rows of 10 s: five are kept


def test_a_seed_gives_the_same_run_and_another_gives_another() -> None:
    def outcome(seed: int):
        generator = np.random.default_rng(seed)
        cohort, fleet = draw_cohort(HARD, 300, generator), draw_fleet(HARD, generator)
        return simulate(cohort, fleet, generator=generator, order=RANDOM)

    assert outcome(5) == outcome(5) != outcome(6)


def test_reading_caps_the_speed_of_all_workers_together() -> None:
    assumed = dataclasses.replace(
        HARD, mtbf_hours=0.0, slide_seconds=0.0, handout_seconds=0.0, start_seconds=0.0, broken_share=0.0
    )
    generator = np.random.default_rng(6)
    cohort = draw_cohort(assumed, 500, generator)
    gigabytes = cohort.work.sum() / assumed.seconds_per_mm2 * assumed.mb_per_mm2 / 1000
    fleet = draw_fleet(dataclasses.replace(assumed, bandwidth_gb=0.01), generator)
    assert gigabytes / 0.01 <= run(cohort, fleet).makespan_s <= 1.1 * gigabytes / 0.01


def test_the_command_prints_a_line_for_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    cohort_simulation.main(["--slides", "200", "--workers", "10"])
    printed = capsys.readouterr().out
    assert all(f"\n{way} " in printed for way in cohort_simulation.WAYS)
    assert "simulated: 200 slides on 10 workers, over the lower bound: 1." in printed
