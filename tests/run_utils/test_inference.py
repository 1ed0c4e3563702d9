"""Inference on one image: any tiling gives the same nuclei, the border is predicted, ids agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.hovernet.geometry import Geometry, hovernet_geometry
from models.hovernet.targets import make_targets
from run_utils.inference.pipeline import Plan, infer_image
from run_utils.inference.predictors import ProbabilityMaps
from tests.drawing import draw_pairs

HV_STEP = 127.0  # grey levels that stand for 1 in an image of HV maps


class PixelPredictor:
    """Reads the maps out of the pixels: red is the probability, green and blue are the HV maps."""

    num_types = None

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.sides: set[tuple[int, int]] = set()

    def predict(self, tiles: np.ndarray) -> ProbabilityMaps:
        for side in tiles.shape[1:3]:
            self.geometry.check(side)
        self.sides.add(tiles.shape[1:3])
        edge = self.geometry.margin // 2
        inner = tiles[:, edge : tiles.shape[1] - edge, edge : tiles.shape[2] - edge].astype(np.float32)
        hv = (inner[..., 1:] - HV_STEP) / HV_STEP
        return ProbabilityMaps(inner[..., 0] / 255, np.ascontiguousarray(hv.transpose(0, 3, 1, 2)), None)


def as_image(label_map: np.ndarray) -> np.ndarray:
    """Return an image whose pixels are the label map's targets."""
    targets = make_targets(torch.from_numpy(label_map)[None])
    hv = targets.hv[0].permute(1, 2, 0).numpy() * HV_STEP + HV_STEP
    return np.dstack([targets.nuclei[0].numpy() * 255, hv.round()]).astype(np.uint8)


def infer(image: np.ndarray, predictor: PixelPredictor, plan: Plan):
    return infer_image(lambda b: image[b[0] : b[2], b[1] : b[3]], image.shape[:2], predictor, plan)


FAST, ORIGINAL = hovernet_geometry("fast"), hovernet_geometry("original")
PLANS = [
    Plan(window=160, region_size=96, halo=48),
    Plan(window=128, region_size=150, halo=40, batch_size=3),
    Plan(window=512, region_size=64, halo=64),
    Plan(window=256, region_size=4096, halo=0),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.region_size}-{plan.window}")
def test_any_tiling_gives_the_nuclei_of_the_whole_image(plan: Plan) -> None:
    image = as_image(draw_pairs((300, 340)))
    whole_map, whole = infer(image, PixelPredictor(FAST), Plan(window=1024, region_size=4096, halo=64))
    label_map, nuclei = infer(image, PixelPredictor(FAST), plan)
    assert len(nuclei) == len(whole) > 50
    order, reference = (np.lexsort(table.centroids.round(6).T) for table in (nuclei, whole))
    np.testing.assert_allclose(nuclei.centroids[order], whole.centroids[reference], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(nuclei.boxes_yxyx[order], whole.boxes_yxyx[reference])
    for mine, other in zip(order, reference, strict=True):
        np.testing.assert_array_equal(nuclei.contour(mine), whole.contour(other))
        np.testing.assert_array_equal(label_map == nuclei.ids[mine], whole_map == whole.ids[other])


def test_ids_run_from_one_and_agree_between_map_and_table() -> None:
    image = as_image(draw_pairs((300, 300)))
    label_map, nuclei = infer(image, PixelPredictor(FAST), Plan(window=160, region_size=96, halo=48))
    np.testing.assert_array_equal(np.unique(label_map)[1:], nuclei.ids)
    np.testing.assert_array_equal(nuclei.ids, np.arange(1, len(nuclei) + 1))


def test_nuclei_at_the_border_are_found() -> None:
    label_map = np.zeros((200, 200), np.int32)
    for number, (y, x) in enumerate([(0, 0), (0, 185), (186, 0), (188, 188), (90, 0)], start=1):
        label_map[y : y + 14, x : x + 14] = number
    found, nuclei = infer(as_image(label_map), PixelPredictor(ORIGINAL), Plan(window=1024))
    assert len(nuclei) == 5
    assert np.count_nonzero((found > 0) != (label_map > 0)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (3000, 20), (7, 1), (1, 50)])
def test_images_of_any_shape_can_be_predicted(shape: tuple[int, int]) -> None:
    label_map, nuclei = infer(
        np.zeros((*shape, 3), np.uint8) + 127, PixelPredictor(ORIGINAL), Plan(window=512)
    )
    assert label_map.shape == shape
    assert len(nuclei) == 0 or label_map.max() == len(nuclei)


def test_published_windows_are_used_when_asked_for() -> None:
    predictor = PixelPredictor(FAST)
    image = as_image(draw_pairs((300, 300)))
    label_map, _ = infer(image, predictor, Plan(window=256, is_exact=True))
    assert predictor.sides == {(256, 256)}
    expected, _ = infer(image, PixelPredictor(FAST), Plan(window=1024))
    np.testing.assert_array_equal(label_map > 0, expected > 0)
