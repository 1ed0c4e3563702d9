"""Inference on one image: any tiling gives the same nuclei, the border is predicted, ids agree."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from dataloader.slides import SlideError, open_slide
from dataloader.tissue import Tissue
from models.hovernet.checkpoint import load_checkpoint
from models.hovernet.facts import ModelFacts
from models.hovernet.geometry import Geometry, hovernet_geometry
from models.hovernet.targets import make_targets
from models.nuclei import Nuclei
from run_utils.inference.maps import BATCHES_AHEAD, predict_boxes, predict_region
from run_utils.inference.pipeline import infer_image, stream_regions
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import ProbabilityMaps
from run_utils.inference.torch_predictor import TorchPredictor
from tests.conftest import ROOT
from tests.drawing import draw_pairs
from tests.waiting import wait_until


class MapPredictor:
    """Takes tiles whose channels are the maps themselves: probability, horizontal, vertical, types."""

    def __init__(self, geometry: Geometry, num_types: int | None = None) -> None:
        self.geometry = geometry
        self.num_types = num_types
        self.facts = ModelFacts()
        self.device = torch.device("cpu")
        self.sides: set[tuple[int, int]] = set()
        self.batches: list[int] = []
        self.num_pixels = 0

    def predict(self, tiles: np.ndarray) -> ProbabilityMaps:
        for side in tiles.shape[1:3]:
            self.geometry.check(side)
        self.sides.add(tiles.shape[1:3])
        self.batches.append(len(tiles))
        edge = self.geometry.margin // 2
        inner = tiles[:, edge : tiles.shape[1] - edge, edge : tiles.shape[2] - edge]
        self.num_pixels += inner[..., 0].size
        maps = np.ascontiguousarray(inner.transpose(0, 3, 1, 2))
        return ProbabilityMaps(maps[:, 0], maps[:, 1:3], maps[:, 3:] if self.num_types else None)


class FramePredictor(MapPredictor):
    """Takes tiles as above; its maps depend on where in its window a pixel lies, as those of padded networks do."""

    def predict(self, tiles: np.ndarray) -> ProbabilityMaps:
        maps = super().predict(tiles)
        rows, columns = np.ogrid[: maps.nuclei.shape[1], : maps.nuclei.shape[2]]
        shade = 0.7 + 0.3 * np.cos(rows / 9) * np.cos(columns / 7)  # below the threshold in places
        return ProbabilityMaps(maps.nuclei * shade.astype(np.float32), maps.hv, maps.types)


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


WINDOWED = Plan(window=176, region_size=80, halo=48)  # steps of 80 px
SAME_LATTICE = [
    Plan(window=176, region_size=80, halo=48, batch_size=3, predict_workers=2, decode_workers=2),
    Plan(window=176, region_size=250, halo=64, batch_size=5, read_workers=2),
    Plan(window=176, region_size=4096, halo=0, predict_workers=3),
]


@pytest.mark.parametrize("plan", SAME_LATTICE, ids=lambda plan: f"{plan.region_size}-{plan.batch_size}")
@pytest.mark.parametrize("has_tissue", [False, True], ids=["all", "tissue"])
def test_regions_batches_and_threads_change_neither_maps_nor_nuclei(plan: Plan, has_tissue: bool) -> None:
    maps = as_maps(draw_pairs((300, 340)))
    tissue = Tissue((300, 340), np.arange(56).reshape(7, 8) % 5 > 0) if has_tissue else None
    expected = infer(maps, FramePredictor(FAST), WINDOWED, tissue)
    assert len(expected[1]) > 50
    assert_same_nuclei(infer(maps, FramePredictor(FAST), plan, tissue), expected)
    otherwise = replace(plan, window=188, region_size=max(plan.region_size, 96))
    other_map, _ = infer(maps, FramePredictor(FAST), otherwise, tissue)
    assert np.any((other_map > 0) != (expected[0] > 0))  # else the frame would prove nothing


@pytest.mark.parametrize("plan", SAME_LATTICE, ids=lambda plan: f"{plan.region_size}-{plan.batch_size}")
def test_every_tile_is_predicted_once_in_full_batches(plan: Plan) -> None:
    maps = as_maps(draw_pairs((300, 340)))
    lattice = plan.lay_tiles((300, 340), FAST)
    mask = np.zeros((7, 8), bool)
    mask[2:4, 1], mask[5, 6] = True, True
    for tissue in (None, Tissue((300, 340), mask)):
        keeps = [lattice.tile(*place).keep_yxyx for place in np.ndindex(lattice.shape)]
        is_near = [tissue is None or tissue.touches(np.array([keep]), reach=plan.halo)[0] for keep in keeps]
        predictor = MapPredictor(FAST)
        infer(maps, predictor, plan, tissue)
        assert sum(predictor.batches) == sum(is_near) > 1
        assert predictor.batches.count(plan.batch_size) == sum(is_near) // plan.batch_size
    assert sum(is_near) < len(keeps)


def test_a_run_that_goes_on_in_the_middle_gets_the_same(real_maps) -> None:
    plan = Plan(window=256, region_size=300, batch_size=2)
    predictor = FramePredictor(FAST, real_maps.shape[2] - 3)
    grid = plan.cut_regions(real_maps.shape[:2], FAST)
    tissue = Tissue(real_maps.shape[:2], np.arange(90).reshape(9, 10) % 7 > 1)
    boxes = [region.box_yxyx for region in grid.regions]

    def predict(boxes: list) -> list[ProbabilityMaps]:
        def read(box):
            return real_maps[box[0] : box[2], box[1] : box[3]]

        return list(predict_boxes(read, grid.shape, boxes, predictor, plan, tissue=tissue))

    whole = predict(boxes)
    assert len(whole) > 8
    for first in (1, 4, len(whole) - 1):
        for maps, others in zip(predict(boxes[first:]), whole[first:], strict=True):
            for array, other in zip(maps, others, strict=True):
                np.testing.assert_array_equal(array, other)


@pytest.fixture(scope="module")
def real_tissue() -> np.ndarray:
    """900 x 1000 px of real tissue, RGB uint8."""
    with open_slide(ROOT / "samples" / "CMU-1-Small-Region.svs") as slide:
        return slide.read((2600, 1900, 3500, 2900), 0.25)


@pytest.fixture(scope="module")
def shipped() -> TorchPredictor:
    network = load_checkpoint(ROOT / "samples" / "hovernet_lite_consep.pt")
    return TorchPredictor(network, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def real_maps(real_tissue, shipped) -> np.ndarray:
    """Maps of the shipped model on real tissue, (H, W, 3 + T) float32."""

    def read(box):
        return real_tissue[box[0] : box[2], box[1] : box[3]]

    maps = predict_region(read, (900, 1000), (0, 0, 900, 1000), shipped, Plan())
    return np.ascontiguousarray(np.concatenate([maps.nuclei[None], maps.hv, maps.types]).transpose(1, 2, 0))


def test_the_regions_do_not_change_what_the_shipped_model_finds(real_tissue, shipped) -> None:
    crop = real_tissue[:330, :350]
    plan = Plan(window=224, region_size=192)
    found = infer(crop, shipped, plan)
    assert len(found[1]) > 20
    assert_same_nuclei(infer(crop, shipped, replace(plan, region_size=4096, predict_workers=2)), found)


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

    before = set(threading.enumerate())
    with pytest.raises(SlideError, match="tile 7"):
        infer_image(read, (2000, 300), MapPredictor(FAST), Plan(window=256, region_size=128))
    assert not set(threading.enumerate()) - before


def test_an_error_while_predicting_is_raised_at_once_and_ends_the_threads() -> None:
    class Failing(MapPredictor):
        def predict(self, tiles: np.ndarray) -> ProbabilityMaps:
            super().predict(tiles)
            if len(self.batches) > 3:
                raise MemoryError("a window does not fit")
            return super().predict(tiles)

    before = set(threading.enumerate())
    predictor, plan = Failing(FAST), Plan(window=256, region_size=128, predict_workers=2)
    with pytest.raises(MemoryError, match="does not fit"):
        infer(np.zeros((2000, 300, 3), np.float32), predictor, plan)
    assert not set(threading.enumerate()) - before
    assert len(predictor.batches) <= 4 + plan.predict_workers + 1


def test_no_more_batches_are_under_way_than_threads_and_one() -> None:
    class Slow(MapPredictor):
        num_running = most_running = 0
        lock, calls, meeting = threading.Lock(), itertools.count(), threading.Barrier(2)

        def predict(self, tiles: np.ndarray) -> ProbabilityMaps:
            with self.lock:
                self.num_running += 1
                self.most_running = max(self.most_running, self.num_running)
            if next(self.calls) < 2:
                self.meeting.wait(30)  # both threads work at once
            with self.lock:
                self.num_running -= 1
                return super().predict(tiles)

    maps = np.zeros((1000, 90, 3), np.float32)
    predictor, plan = Slow(FAST), Plan(window=192, region_size=96, halo=32, predict_workers=2)
    boxes = predict_boxes(
        lambda b: maps[b[0] : b[2], b[1] : b[3]],
        (1000, 90),
        [(top, 0, top + 96, 90) for top in range(0, 960, 96)],
        predictor,
        plan,
    )
    next(boxes)
    wait_until(lambda: len(predictor.batches) == 1 + plan.predict_workers)
    time.sleep(0.1)
    assert len(predictor.batches) == 1 + plan.predict_workers  # what is in flight goes on, no more is begun
    assert predictor.most_running == plan.predict_workers
    boxes.close()
    assert len(predictor.batches) == 1 + plan.predict_workers


def test_regions_come_before_the_whole_slide_is_read() -> None:
    maps = as_maps(draw_pairs((300, 300)))
    rows_read: list[int] = []

    def read(box):
        rows_read.append(box[0])
        return maps[box[0] : box[2], box[1] : box[3]]

    plan = Plan(window=192, region_size=64, halo=32)
    grid = plan.cut_regions((300, 300), FAST)
    stream = stream_regions(read, grid, list(grid.regions), MapPredictor(FAST), plan)
    next(stream)
    num_tiles = len(rows_read)
    stream.close()
    num_decoding, of_first = (
        plan.decode_workers + 1,
        4,
    )  # a region's right and lower halo lie in the next tiles
    ahead = BATCHES_AHEAD + plan.predict_workers + 1
    assert num_tiles <= of_first + 2 * num_decoding + ahead < np.prod(plan.lay_tiles((300, 300), FAST).shape)


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
