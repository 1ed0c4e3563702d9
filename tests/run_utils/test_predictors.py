"""Predictors: batches that do not fit are halved, overlap is real and, by default, what the network needs."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from config.schema import InferSettings
from dataloader.lattice import lay_tiles
from dataloader.stain import NORMALIZERS, MacenkoNormalizer, make_normalizer
from models.hovernet.geometry import Geometry, hovernet_geometry
from models.hovernet.lite import HoVerNetLite
from models.hovernet.network import HoVerNet
from run_utils.build_inference import build_predictor
from run_utils.inference.predictors import (
    NormalisingPredictor,
    OverlappingPredictor,
    PredictorGroup,
    ProbabilityMaps,
    Tiles,
    normalise_stain,
)
from run_utils.inference.torch_predictor import GPU_THREADS, TorchPredictor, Turns
from tests.conftest import ROOT
from tests.run_utils.test_inference import MapPredictor
from tests.stained import stain_image

CPU = torch.device("cpu")


@pytest.fixture
def predictor() -> TorchPredictor:
    torch.manual_seed(0)
    network = HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=0)
    return TorchPredictor(network, CPU, torch.float32)


def assert_same_maps(one: ProbabilityMaps, other: ProbabilityMaps) -> None:
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_slide_is_predicted_as_its_normalised_self(predictor: TorchPredictor) -> None:
    tiles = np.stack([stain_image(64, 64, seed=seed) for seed in range(2)])
    normalizer = MacenkoNormalizer()
    source = normalizer.estimate(stain_image(200, 200, seed=9))
    normalising = NormalisingPredictor(predictor, normalizer, source)
    assert normalising.geometry == predictor.geometry
    assert_same_maps(normalising.predict(tiles), predictor.predict(normalizer.transform(tiles, source)))
    assert np.abs(normalising.predict(tiles).nuclei - predictor.predict(tiles).nuclei).max() > 1e-3


def test_a_group_works_on_as_many_batches_at_once_as_it_has_members(predictor: TorchPredictor) -> None:
    meeting = threading.Barrier(2, timeout=30)

    class Meeting(TorchPredictor):
        def predict(self, tiles: Tiles) -> ProbabilityMaps:
            meeting.wait()  # passed only where both predict at once
            return super().predict(tiles)

    group = PredictorGroup([Meeting(predictor.network, CPU, torch.float32) for _ in range(2)])
    tiles = np.stack([stain_image(64, 64, seed=seed) for seed in range(2)])
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(group.predict, [tiles] * 4))
    for maps in found:
        assert_same_maps(maps, predictor.predict(tiles))


def test_each_member_of_a_group_normalises_its_own_tiles(predictor: TorchPredictor) -> None:
    normalizer = MacenkoNormalizer()
    source = normalizer.estimate(stain_image(200, 200, seed=9))
    group = normalise_stain(PredictorGroup([predictor, predictor]), normalizer, source)
    tiles = stain_image(64, 64, seed=1)[None]
    assert isinstance(group, PredictorGroup)
    assert all(isinstance(member, NormalisingPredictor) for member in group.members)
    assert_same_maps(group.predict(tiles), NormalisingPredictor(predictor, normalizer, source).predict(tiles))


@pytest.mark.gpu
@pytest.mark.parametrize("method", NORMALIZERS)
def test_a_gpu_normalises_windows_as_the_cpu_does(method: str) -> None:
    seen: list[Tiles] = []
    device = torch.device("cuda")
    predictor = MapPredictor(hovernet_geometry("fast"))
    predictor.device = device
    predictor.predict = lambda tiles: seen.append(tiles)
    tiles = stain_image(64, 64)[None]
    normalizer = make_normalizer(method)
    source = normalizer.estimate(tiles[0])
    NormalisingPredictor(predictor, normalizer, source).predict(tiles)
    assert seen[0].is_cuda and seen[0].shape == tiles.shape
    difference = seen[0].cpu().numpy().astype(int) - normalizer.transform(tiles, source)
    assert np.abs(difference).max() <= 1


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
    monkeypatch.setattr(predictor, "_turns", Turns(GPU_THREADS))
    tried = limit_memory(predictor, 2, monkeypatch)
    for _ in range(2):
        found = predictor.predict(tiles)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert tried == [5, 5, 2, 2, 1, 2, 2, 1]  # once more alone, then by halves


def test_a_batch_that_fits_only_alone_waits_for_the_other(predictor, monkeypatch) -> None:
    tiles = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), np.uint8)
    real, working, most = predictor._predict, [0], [0]
    meeting, calls = threading.Barrier(2), itertools.count()

    def predict(batch: np.ndarray) -> ProbabilityMaps:
        working[0] += 1
        most[0] = max(most[0], working[0])
        try:
            if next(calls) < 2:
                meeting.wait(30)
            if working[0] > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(batch)
        finally:
            working[0] -= 1

    monkeypatch.setattr(predictor, "_turns", Turns(GPU_THREADS))
    monkeypatch.setattr(predictor, "_predict", predict)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(predictor.predict, [tiles, tiles]))
    assert most == [2]
    assert_same_maps(found[0], found[1])


def test_a_window_that_never_fits_names_the_setting(predictor, monkeypatch) -> None:
    limit_memory(predictor, 0, monkeypatch)
    with pytest.raises(MemoryError, match="set window="):
        predictor.predict(np.zeros((2, 64, 64, 3), np.uint8))


@pytest.mark.parametrize("overlap", [1, 92, 93, 108, 150])
def test_an_overlap_makes_windows_overlap_by_at_least_that(overlap: int) -> None:
    inner = MapPredictor(hovernet_geometry("fast"))
    wide = OverlappingPredictor(inner, overlap)
    assert wide.geometry.margin >= max(overlap, inner.geometry.margin)
    assert wide.geometry.margin < max(overlap, inner.geometry.margin) + 2 * inner.geometry.multiple
    side = wide.geometry.input_size_for(100)
    tile = np.random.default_rng(0).random((2, side, side, 3), np.float32)
    maps = wide.predict(tile)
    edge = wide.geometry.margin // 2
    np.testing.assert_array_equal(maps.nuclei, tile[:, edge : side - edge, edge : side - edge, 0])


LITE = HoVerNetLite(num_stages=4).geometry


@pytest.mark.parametrize(
    "geometry", [LITE, *map(hovernet_geometry, ("fast", "original"))], ids=lambda g: g.name
)
@pytest.mark.parametrize("overlap", [48, 50, 93, 111, 192, 200])
def test_windows_stay_on_the_same_pooling_grid_whatever_the_overlap(geometry: Geometry, overlap: int) -> None:
    rules = [geometry, OverlappingPredictor(MapPredictor(geometry), overlap).geometry]
    lattices = [lay_tiles(shape, rule, 448) for rule in rules for shape in ((900, 700), (150, 4003))]
    starts = [
        {
            tuple(np.mod(lattice.tile(*place).input_yxyx[:2], geometry.multiple))
            for place in np.ndindex(lattice.shape)
        }
        for lattice in lattices
    ]
    assert starts == [starts[0]] * len(starts)
    assert len(starts[0]) == 1


def default_geometry(**settings: Any) -> Geometry:
    checkpoint = str(ROOT / "samples" / "hovernet_lite_consep.pt")
    return build_predictor(
        InferSettings(
            input="a", output="b", checkpoint=checkpoint, device="cpu", predictor="torch", **settings
        )
    ).geometry


def test_windows_of_a_padded_network_overlap_by_default_up_to_half() -> None:
    assert default_geometry().margin == 160
    assert default_geometry(window=320).margin == 160
    assert default_geometry(window=256).margin == 128
    assert default_geometry(window=128, overlap=96).margin == 96
    assert default_geometry(overlap=1).margin == LITE.margin


@pytest.mark.parametrize("window", [LITE.smallest, 63, 79, 95, 100, 127, 128, 159, 319])
def test_the_default_overlap_leaves_every_window_valid(window: int) -> None:
    geometry = default_geometry(window=window)
    side = window - window % geometry.multiple
    assert 0 < geometry.output_size(side) <= side - LITE.margin
    assert geometry.margin <= max(window / 2, LITE.margin)


def test_published_windows_do_not_overlap_more_than_they_did() -> None:
    assert default_geometry(published_windows=True) == LITE


def test_valid_networks_keep_their_own_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    network = HoVerNet("fast")
    monkeypatch.setattr("run_utils.build_inference.load_checkpoint", lambda path: network)
    assert default_geometry() == hovernet_geometry("fast")
