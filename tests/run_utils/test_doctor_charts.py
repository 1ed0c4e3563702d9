"""Charts of the doctor: round numbers on their axes, and heights where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from run_utils.doctor.charts import BOTTOM, CHART_SHAPE, LEFT, RIGHT, TOP, Curve, draw_steps, find_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 0.05, [0, 0.01, 0.02, 0.03, 0.04, 0.05]),
        (0, 2262, [0, 500, 1000, 1500, 2000]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low: float, high: float, ticks: list[float]) -> None:
    assert find_ticks(low, high) == pytest.approx(ticks)


def test_the_highest_step_reaches_the_top_and_an_empty_bin_lies_at_the_bottom() -> None:
    red = (255, 0, 0)
    chart = draw_steps(np.arange(3), [Curve(np.array([4, 0]), red)], title="", unit="")
    assert chart.shape == (*CHART_SHAPE, 3)
    width = CHART_SHAPE[1] - LEFT - RIGHT
    for share, row in ((0.25, TOP), (0.75, CHART_SHAPE[0] - BOTTOM)):
        column = LEFT + round(share * width)
        rows = np.flatnonzero((chart[:, column] == red).all(axis=1))
        assert abs(rows.mean() - row) <= 1


def test_no_curve_gives_an_empty_chart() -> None:
    assert draw_steps(np.arange(3), [], title="none", unit="px").shape == (*CHART_SHAPE, 3)
