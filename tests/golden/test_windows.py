"""The model that ships: which windows it is given hardly matters to the nuclei."""

from __future__ import annotations

import numpy as np
import pytest

from config.schema import InferSettings
from dataloader.slides import open_slide
from metrics.overlap import Overlap
from run_utils.build_inference import build_plan, build_predictor
from run_utils.inference.pipeline import infer_image
from tests.golden.make_tile import CHECKPOINT, SLIDE

SIDE = 544  # px: one window of 704, sixteen of 320, which meet within 160 px of one another


def share_that_matches(image: np.ndarray, windows: tuple[int, int], **settings: int) -> float:
    """Return the share of nuclei that have a counterpart of IoU > .9 with the other window, at least 100 of them."""
    label_maps = []
    for window in windows:
        infer = InferSettings(
            "a",
            "b",
            str(CHECKPOINT),
            device="cpu",
            predictor="torch",
            precision="fp32",
            window=window,
            **settings,
        )
        predictor = build_predictor(infer)
        plan = build_plan(infer, predictor)
        label_map, nuclei = infer_image(
            lambda b: image[b[0] : b[2], b[1] : b[3]], image.shape[:2], predictor, plan
        )
        assert len(nuclei) > 100
        label_maps.append(label_map)
    overlap = Overlap.of(*label_maps)
    num_nuclei = len(overlap.true_ids) + len(overlap.predicted_ids)
    return 2 * np.count_nonzero(overlap.ious > 0.9) / num_nuclei


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    with open_slide(SLIDE) as slide:
        return slide.read((2800, 2000, 2800 + SIDE, 2000 + SIDE), 0.25)


def test_small_and_large_windows_find_the_same_nuclei(tissue: np.ndarray) -> None:
    assert share_that_matches(tissue, (320, 704)) >= 0.98


def test_without_overlap_seams_show(tissue: np.ndarray) -> None:
    assert share_that_matches(tissue, (320, 704), overlap=1) < 0.95  # else the overlap costs time for nothing
