"""Views of a tile: maps come back in the tile's own frame, HV components turned with them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from config.schema import InferSettings
from models.hovernet.geometry import hovernet_geometry
from models.hovernet.lite import HoVerNetLite
from models.hovernet.targets import make_targets
from run_utils.build_inference import build_predictor
from run_utils.inference.augmented import VIEWS, AugmentedPredictor, View
from run_utils.inference.predictors import ProbabilityMaps
from run_utils.inference.torch_predictor import TorchPredictor
from tests.conftest import ROOT
from tests.drawing import draw_pairs
from tests.run_utils.test_inference import MapPredictor

ALL = [View(*flags) for flags in itertools.product((False, True), repeat=3)]
OTHER = {"turns": 4, "flips": 4, "all": 8, "none": 1}


class TargetPredictor(MapPredictor):
    """Sees a label map in the first channel of a tile, and gives its targets without error."""

    def predict(self, tiles: np.ndarray) -> ProbabilityMaps:
        labels = torch.from_numpy(np.ascontiguousarray(tiles[..., 0]).astype(np.int32))
        size = None
        targets = make_targets(labels, labels % 3, size)
        types = torch.nn.functional.one_hot(targets.types, 3).movedim(-1, 1).float()
        return ProbabilityMaps(targets.nuclei.float().numpy(), targets.hv.numpy(), types.numpy())


def label_tiles(height: int, width: int) -> np.ndarray:
    label_map = draw_pairs((height, width))[:height, :width] % 256
    return np.repeat(label_map[None, ..., None], 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("view", ALL, ids=str)
def test_what_a_view_shows_is_turned_back_exactly(view: View) -> None:
    tiles = label_tiles(96, 130)
    predictor = TargetPredictor(hovernet_geometry("fast"), 3)
    upright, seen = predictor.predict(tiles), AugmentedPredictor(predictor, (view,)).predict(tiles)
    np.testing.assert_array_equal(seen.nuclei, upright.nuclei)
    np.testing.assert_allclose(seen.hv, upright.hv, atol=1e-6)
    np.testing.assert_array_equal(seen.types, upright.types)
    assert np.abs(upright.hv).max() == 1


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_as_many_as_they_say_and_all_different(name: str) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), np.uint8)
    seen = {view.of_tiles(tile).tobytes() for view in VIEWS[name]}
    assert len(seen) == len(VIEWS[name]) == OTHER[name]


def test_turns_are_quarter_turns() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), np.uint8)
    turned = {np.rot90(tile, times, (1, 2)).tobytes() for times in range(4)}
    assert {view.of_tiles(tile).tobytes() for view in VIEWS["turns"]} == turned


@pytest.mark.parametrize("name", ["flips", "turns", "all"])
def test_the_mean_over_a_group_turns_with_the_image(name: str) -> None:
    torch.manual_seed(0)
    network = HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=0)
    predictor = AugmentedPredictor(TorchPredictor(network, torch.device("cpu"), torch.float32), VIEWS[name])
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    upright = predictor.predict(tiles)
    for view in VIEWS[name]:
        seen = predictor.predict(view.of_tiles(tiles))
        np.testing.assert_allclose(view.undo(seen.nuclei), upright.nuclei, atol=1e-5)
        np.testing.assert_allclose(view.undo_hv(seen.hv), upright.hv, atol=1e-5)
        np.testing.assert_allclose(view.undo(seen.types), upright.types, atol=1e-5)


def test_a_tensor_is_seen_as_an_array_is() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (1, 6, 9, 3), np.uint8)
    for view in ALL:
        assert np.array_equal(view.of_tiles(torch.from_numpy(tile)).numpy(), view.of_tiles(tile))


def test_the_setting_gives_as_many_views() -> None:
    checkpoint = str(ROOT / "samples" / "hovernet_lite_consep.pt")
    settings = {"input": "a", "output": "b", "checkpoint": checkpoint, "predictor": "torch", "overlap": 1}
    predictor = build_predictor(InferSettings(tta="turns", **settings)).predictor
    assert isinstance(predictor, AugmentedPredictor) and len(predictor.views) == 4
    with pytest.raises(ValueError, match="tta=often is not known; use one of: none, flips, turns, all"):
        InferSettings(tta="often", **settings)
