"""The window that costs least is taken, remembered, and never larger than memory or patience allow."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.hovernet.geometry import Geometry
from run_utils.inference import window as window_module
from run_utils.inference.predictors import ProbabilityMaps, Tiles
from run_utils.inference.window import FILE_NAME, choose_window, measure_windows

WINDOWS = (64, 128, 192)
FACTS = {"device": "a CPU", "network": "a network"}


class TimedPredictor:
    """Takes a stated time for a window, by moving the clock."""

    num_types = None
    device = torch.device("cpu")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        self.geometry = Geometry("a network", 16, 16, 0, 32, 64)
        self.seconds = seconds
        self.now = 0.0
        self.seen: list[tuple[int, ...]] = []
        monkeypatch.setattr(window_module.time, "perf_counter", lambda: self.now)

    def predict(self, tiles: Tiles) -> ProbabilityMaps:
        self.seen.append(tuple(tiles.shape))
        self.now += self.seconds[tiles.shape[1]]
        return ProbabilityMaps(np.zeros(1), np.zeros(1), None)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({64: 0.1, 128: 0.3, 192: 0.4}, 192),  # 43, 24 and 13 seconds a megapixel
        ({64: 0.1, 128: 0.1, 192: 0.4}, 128),  # 8 beside 13
        ({64: 0.1, 128: 0.157, 192: 0.4}, 192),  # 12.5: not 5 % less than 12.9
    ],
)
def test_the_cheapest_is_chosen_where_it_is_clearly_cheaper_than_the_largest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: dict[int, float], chosen: int
) -> None:
    predictor = TimedPredictor(monkeypatch, seconds)
    assert choose_window(predictor, WINDOWS, batch_size=1, facts=FACTS, folder=tmp_path) == chosen


def test_costs_are_seconds_for_a_megapixel_of_output(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = TimedPredictor(monkeypatch, {64: 0.2, 128: 0.2, 192: 0.2})
    costs = measure_windows(predictor, WINDOWS, batch_size=2)
    assert costs == pytest.approx({side: 0.2 / (2 * (side - 16) ** 2 / 1e6) for side in WINDOWS})
    assert predictor.seen[0] == (2, 64, 64, 3)


def test_the_choice_is_remembered_for_the_same_device_and_network_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    predictor = TimedPredictor(monkeypatch, {64: 0.1, 128: 0.1, 192: 0.4})
    first = choose_window(predictor, WINDOWS, batch_size=1, facts=FACTS, folder=tmp_path)
    count = len(predictor.seen)
    assert choose_window(predictor, WINDOWS, batch_size=1, facts=FACTS, folder=tmp_path) == first
    assert len(predictor.seen) == count
    choose_window(predictor, WINDOWS, batch_size=1, facts={**FACTS, "device": "another"}, folder=tmp_path)
    assert len(predictor.seen) > count
    assert len(json.loads((tmp_path / FILE_NAME).read_text())) == 2


@pytest.mark.parametrize(("seconds", "calls"), [(1.5, 3), (4.0, 1)])
def test_a_network_too_slow_to_try_out_takes_the_largest_and_runs_one_window_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, calls: int
) -> None:
    predictor = TimedPredictor(monkeypatch, {64: seconds, 128: 4 * seconds, 192: 9 * seconds})
    assert choose_window(predictor, WINDOWS, batch_size=1, facts=FACTS, folder=tmp_path) == 192
    assert [shape[1] for shape in predictor.seen] == [64] * calls


def test_the_first_call_of_a_window_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are chosen in it, and memory is touched for the first time."""
    predictor = TimedPredictor(monkeypatch, {64: 0.1, 128: 0.1, 192: 0.1})
    warm = predictor.predict

    def predict(tiles: Tiles) -> ProbabilityMaps:
        predictor.now += 0 if tuple(tiles.shape) in predictor.seen else 2.0
        return warm(tiles)

    monkeypatch.setattr(predictor, "predict", predict)
    costs = measure_windows(predictor, WINDOWS, batch_size=1)
    assert costs == pytest.approx({side: 0.1 / ((side - 16) ** 2 / 1e6) for side in WINDOWS})


def test_a_window_that_does_not_fit_ends_the_trials_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    predictor = TimedPredictor(monkeypatch, {64: 0.1, 128: 0.1, 192: 0.1})
    fits = predictor.predict

    def predict(tiles: Tiles) -> ProbabilityMaps:
        if tiles.shape[1] > 64:
            raise MemoryError("a window of 128x128 px does not fit")
        return fits(tiles)

    monkeypatch.setattr(predictor, "predict", predict)
    costs = measure_windows(predictor, WINDOWS, batch_size=1)
    assert list(costs) == [64, 128] and costs[128] == math.inf
    assert choose_window(predictor, WINDOWS, batch_size=1, facts=FACTS, folder=tmp_path) == 64


def test_a_remembered_window_that_no_longer_fits_is_chosen_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    predictor = TimedPredictor(monkeypatch, {64: 0.1, 128: 0.2, 192: 0.3})
    assert choose_window(predictor, WINDOWS, batch_size=1, facts=FACTS, folder=tmp_path) == 192
    assert choose_window(predictor, WINDOWS[:2], batch_size=1, facts=FACTS, folder=tmp_path) == 128


def test_one_window_is_not_tried_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    predictor = TimedPredictor(monkeypatch, {})
    assert choose_window(predictor, (128,), batch_size=1, facts=FACTS, folder=tmp_path) == 128


@pytest.mark.parametrize("content", ["{half", "[]"])
def test_a_broken_memory_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    predictor = TimedPredictor(monkeypatch, {64: 0.1, 128: 0.1, 192: 0.4})
    assert choose_window(predictor, WINDOWS, batch_size=1, facts=FACTS, folder=tmp_path) == 128
    assert len(json.loads((tmp_path / FILE_NAME).read_text())) == 1
