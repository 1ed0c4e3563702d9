"""The learning rate at each step."""

from __future__ import annotations

import pytest

from config.schema import PhaseSettings
from run_utils.training.schedule import learning_rate_at


def test_step_schedule_is_the_published_one() -> None:
    phase = PhaseSettings(epochs=50, learning_rate=1e-4, schedule="step", step_epochs=25, step_factor=0.1)
    rates = [learning_rate_at(phase, epoch * 10 + 9, 10) for epoch in range(50)]
    assert rates[:25] == [1e-4] * 25
    assert rates[25:] == pytest.approx([1e-5] * 25)


def test_warm_up_rises_linearly_to_the_rate() -> None:
    phase = PhaseSettings(learning_rate=0.8, schedule="constant", warmup_steps=4)
    assert [learning_rate_at(phase, step, 10) for step in range(6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    )


def test_cosine_falls_from_the_rate_through_half_of_it_to_zero() -> None:
    phase = PhaseSettings(epochs=10, learning_rate=1.0, schedule="cosine")
    assert learning_rate_at(phase, 0, 10) == 1.0
    assert learning_rate_at(phase, 50, 10) == pytest.approx(0.5)
    assert learning_rate_at(phase, 100, 10) == pytest.approx(0.0)
