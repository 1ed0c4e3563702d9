"""Who does which slide, without workers."""

from __future__ import annotations

from run_utils.cohort.schedule import MOST_LOSSES, Schedule


def take_all(schedule):
    return list(iter(schedule.take, None))


def test_the_longest_comes_first_and_of_two_alike_the_first():
    assert take_all(Schedule({"small": 1, "large": 9, "one": 4, "other": 4})) == [
        "large",
        "one",
        "other",
        "small",
    ]


def test_a_slide_that_failed_comes_again_behind_those_that_nobody_has_tried():
    schedule = Schedule({"large": 9, "small": 1})
    assert schedule.take() == "large"
    assert schedule.fail("large")
    assert take_all(schedule) == ["small", "large"]


def test_a_slide_that_failed_as_often_as_allowed_is_over():
    schedule = Schedule({"large": 9}, attempts=2)
    for is_left in (True, False):
        assert schedule.take() == "large"
        assert schedule.fail("large") is is_left
    assert schedule.take() is None
    assert schedule.is_finished


def test_a_slide_whose_worker_was_lost_keeps_its_place():
    schedule = Schedule({"large": 9, "small": 1})
    assert schedule.take() == "large"
    assert schedule.lose("large")
    assert take_all(schedule) == ["large", "small"]


def test_lost_workers_do_not_count_as_failures_until_a_slide_must_be_what_kills_them():
    schedule = Schedule({"large": 9}, attempts=2)
    for number in range(1, MOST_LOSSES + 1):
        assert schedule.take() == "large"
        assert schedule.lose("large") is (number < MOST_LOSSES)
    assert schedule.take() is None
    assert schedule.is_finished


def test_nothing_is_finished_while_something_runs():
    schedule = Schedule({"large": 9})
    assert not schedule.is_finished
    schedule.take()
    assert not schedule.is_finished
    schedule.end("large")
    assert schedule.is_finished
