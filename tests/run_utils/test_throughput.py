"""Patches a second and the share of the time that the device waits for data, as logs and screen tell them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import Dataset

from config.schema import PhaseSettings, TrainingRun
from run_utils.build import build_training
from run_utils.training.throughput import BACKWARD, WAIT, ThroughputMeter, Usage
from run_utils.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRun = Callable[..., TrainingRun]
PAUSE = 0.03  # s


def test_only_what_runs_is_counted() -> None:
    meter = ThroughputMeter(torch.device("cpu"))
    start = time.perf_counter()
    for _ in range(2):
        with meter.running():
            with meter.stage(WAIT):
                time.sleep(PAUSE)
            meter.add(3)
        time.sleep(2 * PAUSE)  # as validation does
    usage = meter.read()
    assert 2 * PAUSE <= usage.stages[WAIT] <= usage.seconds <= time.perf_counter() - start - 4 * PAUSE
    assert usage.patches == 6
    assert usage.patches_per_second == 6 / usage.seconds
    assert usage.wait_share == usage.stages[WAIT] / usage.seconds


def test_what_lies_between_two_readings_is_their_difference() -> None:
    earlier = Usage(4, 2.0, {WAIT: 0.5})
    later = Usage(12, 4.0, {WAIT: 1.0, BACKWARD: 0.75})
    between = later - earlier
    assert between == Usage(8, 2.0, {WAIT: 0.5, BACKWARD: 0.75})
    assert str(between) == "4.0 patches/s, 25% of the time waiting for data"


def test_nothing_trained_on_has_no_rate() -> None:
    assert (Usage().patches_per_second, Usage().wait_share) == (0.0, 0.0)


class _SlowPatches(Dataset[dict[str, torch.Tensor]]):
    """Patches that take their time."""

    def __init__(self, patches: Dataset[dict[str, torch.Tensor]]) -> None:
        self.patches = patches

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        time.sleep(PAUSE)
        return self.patches[index]


def test_a_run_logs_its_rate_and_how_long_a_slow_loader_made_it_wait(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(phases=[PhaseSettings(epochs=2, batch_size=2)], log_every=1)
    parts = build_training(run)
    parts.validator = None
    parts.patches = _SlowPatches(parts.patches)
    trainer = Trainer(parts, run)
    with caplog.at_level(logging.INFO):
        trainer.train()
    usage = trainer.usage
    assert usage.patches == 3 * 2
    assert usage.stages[WAIT] >= 6 * PAUSE
    assert sum(usage.stages.values()) <= usage.seconds
    lines = [message for message in caplog.messages if "waiting for data" in message]
    assert lines[1] == f"phase 1 epoch 2: {usage}"
    assert len(lines) == 2
    events = EventAccumulator(str(Path(run.output) / "tensorboard"))
    events.Reload()
    rates = [event.value for event in events.Scalars("train/patches_per_second")]
    shares = [event.value for event in events.Scalars("train/wait_share")]
    assert len(rates) == len(shares) == 6
    for rate, share in zip(rates, shares, strict=True):
        assert 0 < rate < 1 / PAUSE
        assert share >= 0.99 * rate * PAUSE  # each patch of a log entry was waited for that long, at least
        assert share <= 1


@pytest.mark.gpu
def test_a_gpu_that_is_still_busy_does_not_wait() -> None:
    device = torch.device("cuda")
    meter = ThroughputMeter(device)
    torch.cuda._sleep(1)  # loads the kernel
    torch.cuda.synchronize()
    with meter.running():
        torch.cuda._sleep(10**9)  # ticks: half a second at 2 GHz
        with meter.stage(WAIT):
            time.sleep(PAUSE)
        busy = meter.read().stages[WAIT]
        with meter.stage(WAIT):
            time.sleep(PAUSE)
        idle = meter.read().stages[WAIT] - busy
    assert busy < PAUSE / 10
    assert idle >= 0.9 * PAUSE
