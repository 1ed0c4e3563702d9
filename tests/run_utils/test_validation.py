"""Validation during training: what its page shows of many images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dataloader.annotations import AnnotatedImage
from models.hovernet.lite import HoVerNetLite
from models.nuclei import Nuclei
from run_utils.inference.plan import Plan
from run_utils.training import validation
from run_utils.training.validation import Validator
from tests.drawing import draw_pairs, paint_tissue


def make_store(num_filled: int, num_empty: int) -> SimpleNamespace:
    """Return images with nuclei, an empty one after each while there are any."""
    images = []
    for number in range(num_filled):
        label_map = draw_pairs((96, 144), seed=number)
        images.append(AnnotatedImage(f"image_{number}", paint_tissue(label_map), label_map))
        if number < num_empty:
            empty = np.zeros_like(label_map)
            images.append(AnnotatedImage(f"empty_{number}", paint_tissue(empty), empty))
    return SimpleNamespace(source_names=[image.name for image in images], read_source=images.__getitem__)


def make_validator(store: SimpleNamespace) -> Validator:
    device = torch.device("cpu")
    return Validator(store, None, device=device, dtype=torch.float32, plan=Plan(window=64), radius=12)  # type: ignore[arg-type]


def test_empty_images_take_no_place_among_the_best_and_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(num_filled=8, num_empty=8)
    validator = make_validator(store)
    predictions = iter(image.label_map for image in validator.images)
    numbers = iter(range(len(validator.images)))

    def predict(*_: object) -> tuple[np.ndarray, Nuclei]:
        """Give the truth, its first nuclei missing: one in the first filled image, eight in the last."""
        label_map = next(predictions)
        found = np.where(label_map > 1 + next(numbers) // 2, label_map, 0)
        none = np.zeros((0, 2))
        return found, Nuclei(np.zeros(0, np.int32), none, none, none, np.zeros(1, np.int64))

    monkeypatch.setattr(validation, "infer_image", predict)
    monkeypatch.setattr(validator, "_draw", lambda predictor: None)
    network = HoVerNetLite(num_types=None, num_stages=2, decoder_channels=[8], margin=0)
    page = validator.validate(network).page
    names = [f"image_{number}" for number in range(8)]
    assert [example.name for example in page.best] == names[:4]
    assert [example.name for example in page.worst] == names[:3:-1]
