"""The learning rate at each step, as a pure function of the phase's settings."""

from __future__ import annotations

import math

from config.schema import PhaseSettings


def learning_rate_at(phase: PhaseSettings, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step.

    Args:
        phase: the phase's settings.
        step: steps taken in the phase so far, from 0.
        steps_per_epoch: optimiser steps in an epoch.
    """
    rate = phase.learning_rate
    if step < phase.warmup_steps:
        return rate * (step + 1) / phase.warmup_steps
    if phase.schedule == "step":
        return rate * phase.step_factor ** (step // steps_per_epoch // phase.step_epochs)
    if phase.schedule == "cosine":
        total = max(phase.epochs * steps_per_epoch - phase.warmup_steps, 1)
        return rate * 0.5 * (1 + math.cos(math.pi * min((step - phase.warmup_steps) / total, 1)))
    return rate
