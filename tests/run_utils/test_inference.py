"""Inference on one image: any tiling gives the same nuclei, the border is predicted, ids agree."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
import torch

from dataloader.grid import TileGrid
from dataloader.slides import SlideError, open_slide
from dataloader.tissue import Tissue
from models.hovernet.checkpoint import load_checkpoint
from models.hovernet.facts import ModelFacts
from models.hovernet.geometry import Geometry, hovernet_geometry
from models.hovernet.targets import make_targets
from models.nuclei import Nuclei
from run_utils.inference.maps import predict_region
from run_utils.inference.pipeline import infer_image, stream_regions
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import ProbabilityMaps, TorchPredictor
from tests.conftest import ROOT
from tests.drawing import draw_pairs


class MapPredictor:
    """Takes tiles whose channels are the maps themselves: probability, horizontal, vertical, types."""

    def __init__(self, geometry: Geometry, num_types: int | None = None) -> None:
        self.geometry = geometry
        self.num_types = num_types
        self.facts = ModelFacts()
        self.device = torch.device("cpu")
        self.sides: set[tuple[int, int]] = set()
        self.num_pixels = 0

    def predict(self, tiles: np.ndarray) -> ProbabilityMaps:
        for side in tiles.shape[1:3]:
            self.geometry.check(side)
        self.sides.add(tiles.shape[1:3])
        edge = self.geometry.margin // 2
        inner = tiles[:, edge : tiles.shape[1] - edge, edge : tiles.shape[2] - edge]
        self.num_pixels += inner[..., 0].size
        maps = np.ascontiguousarray(inner.transpose(0, 3, 1, 2))
        return ProbabilityMaps(maps[:, 0], maps[:, 1:3], maps[:, 3:] if self.num_types else None)


def as_maps(label_map: np.ndarray) -> np.ndarray:
    """Return the (H, W, 3) float32 maps that a network without error would give."""
    targets = make_targets(torch.from_numpy(label_map)[None])
    return np.dstack([targets.nuclei[0].numpy(), *targets.hv[0].numpy()]).astype(np.float32)


def infer(maps: np.ndarray, predictor: MapPredictor, plan: Plan, tissue: Tissue | None = None):
    return infer_image(
        lambda b: maps[b[0] : b[2], b[1] : b[3]], maps.shape[:2], predictor, plan, tissue=tissue
    )


def assert_same_nuclei(found: tuple[np.ndarray, Nuclei], expected: tuple[np.ndarray, Nuclei]) -> None:
    (label_map, nuclei), (other_map, others) = found, expected
    assert len(nuclei) == len(others)
    order, reference = (np.lexsort(table.centroids.round(6).T) for table in (nuclei, others))
    np.testing.assert_allclose(nuclei.centroids[order], others.centroids[reference], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(nuclei.boxes_yxyx[order], others.boxes_yxyx[reference])
    if nuclei.types is not None:
        np.testing.assert_array_equal(nuclei.types[order], others.types[reference])
        np.testing.assert_allclose(
            nuclei.type_probabilities[order], others.type_probabilities[reference], atol=1e-6
        )
    renamed = np.zeros(len(nuclei) + 1, np.int32)
    renamed[nuclei.ids[order]] = others.ids[reference]
    np.testing.assert_array_equal(renamed[label_map], other_map)
    for mine, other in zip(order, reference, strict=True):
        np.testing.assert_array_equal(nuclei.contour(mine), others.contour(other))


FAST, ORIGINAL = hovernet_geometry("fast"), hovernet_geometry("original")
WHOLE = Plan(window=2048, region_size=4096, halo=96)
PLANS = [
    Plan(window=160, region_size=96, halo=48),
    Plan(window=128, region_size=150, halo=40, batch_size=3, read_workers=3),
    Plan(window=512, region_size=64, halo=64, decode_workers=4),
    Plan(window=256, region_size=4096, halo=0),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.region_size}-{plan.window}")
def test_any_tiling_gives_the_nuclei_of_the_whole_image(plan: Plan) -> None:
    maps = as_maps(draw_pairs((300, 340)))
    whole = infer(maps, MapPredictor(FAST), WHOLE)
    assert len(whole[1]) > 50
    assert_same_nuclei(infer(maps, MapPredictor(FAST), plan), whole)


@pytest.fixture(scope="module")
def real_maps() -> np.ndarray:
    """Maps of the shipped model on 900 x 1000 px of real tissue, (H, W, 3 + T) float32."""
    predictor = TorchPredictor(
        load_checkpoint(ROOT / "samples" / "hovernet_lite_consep.pt"), torch.device("cpu"), torch.float32
    )
    with open_slide(ROOT / "samples" / "CMU-1-Small-Region.svs") as slide:
        read = partial(slide.read, mpp=0.25)
        maps = predict_region(read, slide.working_shape(0.25), (2600, 1900, 3500, 2900), predictor, Plan())
    return np.ascontiguousarray(np.concatenate([maps.nuclei[None], maps.hv, maps.types]).transpose(1, 2, 0))


REAL_PLANS = [
    Plan(window=1024, region_size=512),
    Plan(window=256, region_size=300, read_workers=2, decode_workers=3),
    Plan(window=400, region_size=128, batch_size=2),
    Plan(window=332, region_size=64, decode_workers=2),
]


@pytest.mark.parametrize("plan", REAL_PLANS, ids=lambda plan: f"{plan.region_size}-{plan.window}")
@pytest.mark.parametrize("has_tissue", [False, True], ids=["all", "tissue"])
def test_any_tiling_gives_the_same_nuclei_on_real_tissue(real_maps, plan: Plan, has_tissue: bool) -> None:
    tissue = None
    if has_tissue:
        mask = np.add.outer(np.arange(9) ** 2, np.arange(10) ** 2) % 5 != 0
        tissue = Tissue((900, 1000), mask)
    num_types = real_maps.shape[2] - 3
    whole = infer(real_maps, MapPredictor(FAST, num_types), WHOLE, tissue)
    assert len(whole[1]) > 100
    assert_same_nuclei(infer(real_maps, MapPredictor(FAST, num_types), plan, tissue), whole)


def test_background_is_not_predicted_and_owns_nothing(real_maps) -> None:
    mask = np.zeros((9, 10), bool)
    mask[2, 3] = True
    predictor, num_types = MapPredictor(FAST, 5), 5
    assert real_maps.shape[2] == 3 + num_types
    plan = Plan(window=192, region_size=256)
    label_map, nuclei = infer(real_maps, predictor, plan, Tissue((900, 1000), mask))
    _, everywhere = infer(real_maps, MapPredictor(FAST, 5), plan)
    inside = (everywhere.centroids >= (200, 300)).all(1) & (everywhere.centroids < (300, 400)).all(1)
    assert len(nuclei) == inside.sum() > 0
    np.testing.assert_allclose(
        np.sort(nuclei.centroids, axis=0), np.sort(everywhere.centroids[inside], axis=0)
    )
    assert predictor.num_pixels < 500 * 500  # a cell of 100 px, 96 px around it, rounded up to tiles


def test_an_error_while_reading_is_raised_and_ends_the_threads() -> None:
    def read(box):
        if box[0] > 500:
            raise SlideError("slide.svs: tile 7 cannot be decoded")
        return np.zeros((box[2] - box[0], box[3] - box[1], 3), np.float32)

    before = threading.active_count()
    with pytest.raises(SlideError, match="tile 7"):
        infer_image(read, (2000, 300), MapPredictor(FAST), Plan(window=256, region_size=128))
    assert threading.active_count() == before


def test_regions_come_before_the_whole_slide_is_read() -> None:
    maps = as_maps(draw_pairs((300, 300)))
    rows_read: list[int] = []

    def read(box):
        rows_read.append(box[0])
        return maps[box[0] : box[2], box[1] : box[3]]

    grid = TileGrid((300, 300), 64, 32)
    plan = Plan(window=192, region_size=64, halo=32)
    stream = stream_regions(read, grid, list(grid.regions), MapPredictor(FAST), plan)
    next(stream)
    num_tiles = len(rows_read)
    stream.close()
    assert num_tiles <= 2 + 2 * (plan.decode_workers + 2) < len(grid)


def test_ids_run_from_one_and_agree_between_map_and_table() -> None:
    image = as_maps(draw_pairs((300, 300)))
    label_map, nuclei = infer(image, MapPredictor(FAST), Plan(window=160, region_size=96, halo=48))
    np.testing.assert_array_equal(np.unique(label_map)[1:], nuclei.ids)
    np.testing.assert_array_equal(nuclei.ids, np.arange(1, len(nuclei) + 1))


def test_nuclei_at_the_border_are_found() -> None:
    label_map = np.zeros((200, 200), np.int32)
    for number, (y, x) in enumerate([(0, 0), (0, 185), (186, 0), (188, 188), (90, 0)], start=1):
        label_map[y : y + 14, x : x + 14] = number
    found, nuclei = infer(as_maps(label_map), MapPredictor(ORIGINAL), Plan(window=1024))
    assert len(nuclei) == 5
    assert np.count_nonzero((found > 0) != (label_map > 0)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (3000, 20), (7, 1), (1, 50)])
def test_images_of_any_shape_can_be_predicted(shape: tuple[int, int]) -> None:
    label_map, nuclei = infer(
        np.zeros((*shape, 3), np.float32) + 0.5, MapPredictor(ORIGINAL), Plan(window=512)
    )
    assert label_map.shape == shape
    assert len(nuclei) == 0 or label_map.max() == len(nuclei)


def test_published_windows_are_used_when_asked_for() -> None:
    predictor = MapPredictor(FAST)
    image = as_maps(draw_pairs((300, 300)))
    label_map, _ = infer(image, predictor, Plan(window=256, is_exact=True))
    assert predictor.sides == {(256, 256)}
    expected, _ = infer(image, MapPredictor(FAST), Plan(window=1024))
    np.testing.assert_array_equal(label_map > 0, expected > 0)
