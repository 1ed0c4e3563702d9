"""Predictors: batches that do not fit are halved, overlap is real."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.hovernet.geometry import hovernet_geometry
from models.hovernet.lite import HoVerNetLite
from run_utils.inference.predictors import OverlappingPredictor, ProbabilityMaps, TorchPredictor
from tests.run_utils.test_inference import MapPredictor

CPU = torch.device("cpu")


@pytest.fixture
def predictor() -> TorchPredictor:
    torch.manual_seed(0)
    network = HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=0)
    return TorchPredictor(network, CPU, torch.float32)


def limit_memory(predictor: TorchPredictor, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the predictor run out of memory above ``most`` tiles; return the batches that it tried."""
    tried: list[int] = []
    real = predictor._predict

    def predict(tiles: np.ndarray) -> ProbabilityMaps:
        tried.append(len(tiles))
        if len(tiles) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(tiles)

    monkeypatch.setattr(predictor, "_predict", predict)
    return tried


def test_a_batch_that_does_not_fit_is_halved_and_stays_so(predictor, monkeypatch) -> None:
    tiles = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), np.uint8)
    expected = predictor.predict(tiles)
    tried = limit_memory(predictor, 2, monkeypatch)
    for _ in range(2):
        found = predictor.predict(tiles)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert tried == [5, 2, 2, 1, 2, 2, 1]


def test_a_window_that_never_fits_names_the_setting(predictor, monkeypatch) -> None:
    limit_memory(predictor, 0, monkeypatch)
    with pytest.raises(MemoryError, match="set window="):
        predictor.predict(np.zeros((2, 64, 64, 3), np.uint8))


@pytest.mark.parametrize("overlap", [1, 92, 93, 150])
def test_an_overlap_makes_windows_overlap_by_at_least_that(overlap: int) -> None:
    inner = MapPredictor(hovernet_geometry("fast"))
    wide = OverlappingPredictor(inner, overlap)
    assert wide.geometry.margin >= max(overlap, inner.geometry.margin)
    assert wide.geometry.margin - inner.geometry.margin < 2 + max(overlap - 92, 0)
    side = wide.geometry.input_size_for(100)
    tile = np.random.default_rng(0).random((2, side, side, 3), np.float32)
    maps = wide.predict(tile)
    edge = wide.geometry.margin // 2
    np.testing.assert_array_equal(maps.nuclei, tile[:, edge : side - edge, edge : side - edge, 0])
