"""The model that ships, on one tile: it loads, gives its stored maps, and they decode to the stored nuclei."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dataloader.slides import open_slide
from models.hovernet.checkpoint import load_checkpoint
from models.hovernet.postprocess import decode
from run_utils.evaluation import score_pair
from run_utils.inference.torch_predictor import TorchPredictor
from tests.golden.make_tile import BOX_YXYX, CHECKPOINT, SLIDE, TILE

MAX_BYTES = 12_000_000
HALF_STEP = 2e-3  # the maps are stored in half precision


@pytest.fixture(scope="module")
def tile() -> dict[str, np.ndarray]:
    with np.load(TILE) as stored:
        return dict(stored)


def test_the_sample_slide_reads_as_it_did(tile: dict[str, np.ndarray]) -> None:
    with open_slide(SLIDE) as slide:
        image = slide.read(BOX_YXYX, 0.25)
    assert np.abs(image.astype(int) - tile["image"]).max() <= 2  # JPEG decoders differ by a grey level


def test_the_shipped_model_gives_its_stored_maps(tile: dict[str, np.ndarray]) -> None:
    network = load_checkpoint(CHECKPOINT)
    maps = TorchPredictor(network, torch.device("cpu"), torch.float32).predict(tile["image"][None])
    np.testing.assert_allclose(maps.nuclei[0], tile["nuclei"], atol=HALF_STEP)
    np.testing.assert_allclose(maps.hv[0], tile["hv"], atol=HALF_STEP)
    np.testing.assert_allclose(maps.types[0], tile["types"], atol=HALF_STEP)


def test_the_stored_maps_decode_to_the_stored_nuclei(tile: dict[str, np.ndarray]) -> None:
    maps = (tile[name].astype(np.float32) for name in ("nuclei", "hv", "types"))
    label_map, nuclei = decode(*maps)
    assert len(nuclei) > 20
    assert score_pair(tile["label_map"].astype(np.int32), label_map)["PQ"] == 1.0


def test_the_shipped_model_is_small_and_says_what_it_is() -> None:
    assert CHECKPOINT.stat().st_size <= MAX_BYTES
    facts = load_checkpoint(CHECKPOINT).facts
    names = [kind.name for kind in facts.types]
    assert names == ["background", "miscellaneous", "inflammatory", "epithelial", "spindle-shaped"]
    assert facts.mpp == 0.25
    assert "CoNSeP" in facts.notes["licence"]
