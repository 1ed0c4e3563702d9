from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import shapely

from dataloader.tissue import Tissue


def random_outlines(generator, shape):
    """Some stars and rings, partly beside the slide, corners on whole pixels or anywhere."""
    parts = []
    for _ in range(generator.integers(1, 4)):
        angles = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(3, 12)))
        radii = generator.uniform(0.05, 0.5, len(angles)) * max(shape)
        centre = generator.uniform(0, 1, 2) * shape[::-1]
        corners = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        corners = np.rint(corners) if generator.random() < 0.5 else corners
        star = shapely.make_valid(shapely.Polygon(corners), method="structure", keep_collapsed=False)
        hole = shapely.Point(centre).buffer(radii.min() / 2)
        parts.append(shapely.difference(star, hole))
    outlines = shapely.union_all(parts)
    return outlines if outlines.area > 0 else shapely.box(1, 1, 3, 3)


def random_tissue(seed):
    generator = np.random.default_rng(seed)
    shape = tuple(int(side) for side in generator.integers(1, 400, 2))
    cells = generator.integers(1, 60, 2)  # sometimes more cells than pixels
    mask = generator.random(cells) < generator.choice([0.02, 0.3, 0.9])
    outlines = random_outlines(generator, shape)
    chosen = seed % 3
    return generator, shape, None if chosen == 1 else mask, None if chosen == 0 else outlines


def random_boxes(generator, shape, count=60):
    corners = np.sort(generator.integers(-20, np.array(shape) + 20, (count, 2, 2)), axis=1)
    return np.concatenate([corners[:, 0], corners[:, 1] + generator.integers(0, 3, (count, 2))], 1)


def cell_box(cell, grid, shape):
    low, high = cell * np.array(shape) / grid, (cell + 1) * np.array(shape) / grid
    return np.concatenate([low, high])


def slow_area(box, shape, mask, outlines):
    """The area of tissue in a box, cell by cell."""
    slide = shapely.intersection(shapely.box(*box[[1, 0, 3, 2]]), shapely.box(0, 0, shape[1], shape[0]))
    if mask is not None:
        cells = [cell_box(cell, mask.shape, shape) for cell in np.argwhere(mask)]
        slide = shapely.intersection(
            slide, shapely.union_all([shapely.box(x, y, r, b) for y, x, b, r in cells])
        )
    return shapely.area(slide if outlines is None else shapely.intersection(slide, outlines))


@pytest.mark.parametrize("seed", range(24))
def test_every_box_that_contains_a_held_point_is_touched(seed):
    generator, shape, mask, outlines = random_tissue(seed)
    tissue = Tissue(shape, mask, outlines)
    points = generator.uniform(-2, 1, (4000, 2)) + generator.integers(0, np.array(shape) + 2, (4000, 2))
    points[::3] = np.floor(points[::3])
    points[1::3] = np.nextafter(np.floor(points[1::3]), -np.inf)  # the last before a box ends
    held = points[tissue.holds(points)]
    for box, touched in zip(boxes := random_boxes(generator, shape), tissue.touches(boxes), strict=True):
        inside = ((held >= box[:2]) & (held < box[2:])).all(1)
        assert touched or not inside.any()
    pixels = np.floor(held).astype(int)
    assert tissue.touches(np.concatenate([pixels, pixels + 1], 1)).all()


@pytest.mark.parametrize("seed", range(24))
def test_points_are_held_where_the_cell_and_the_outlines_are(seed):
    generator, shape, mask, outlines = random_tissue(seed)
    points = generator.uniform(-5, np.array(shape) + 5, (500, 2))
    wanted = []
    for y, x in points:
        is_held = 0 <= y < shape[0] and 0 <= x < shape[1]
        if is_held and mask is not None:
            is_held = mask[int(y * mask.shape[0] / shape[0]), int(x * mask.shape[1] / shape[1])]
        wanted.append(is_held and (outlines is None or shapely.contains(outlines, shapely.Point(x, y))))
    np.testing.assert_array_equal(Tissue(shape, mask, outlines).holds(points), wanted)


@pytest.mark.parametrize("seed", range(12))
def test_a_box_with_tissue_is_touched_and_one_whose_cells_have_none_is_not(seed):
    generator, shape, mask, outlines = random_tissue(seed)
    tissue = Tissue(shape, mask, outlines)
    grid = tissue.mask.shape
    boxes = random_boxes(generator, shape, 30)
    for box, touched in zip(boxes, tissue.touches(boxes), strict=True):
        if slow_area(box, shape, mask, outlines) > 1e-6:
            assert touched
        low = np.clip(box[:2], 0, shape) * grid // shape
        high = -(-np.clip(box[2:], 0, shape) * grid // shape)
        whole_cells = np.concatenate([low * shape / grid, high * shape / grid])
        if slow_area(whole_cells, shape, mask, outlines) < 1e-9:
            assert not touched


@pytest.mark.parametrize("seed", range(12))
def test_the_area_and_the_mask_are_those_of_cells_cut_by_the_outlines(seed):
    _, shape, mask, outlines = random_tissue(seed)
    tissue = Tissue(shape, mask, outlines)
    wanted = slow_area(np.array([0, 0, *shape]), shape, mask, outlines)
    assert tissue.area == pytest.approx(wanted, rel=1e-9, abs=1e-6)
    assert tissue.area_fraction == pytest.approx(wanted / (shape[0] * shape[1]), abs=1e-9)
    grid = tissue.mask.shape
    for cell in np.random.default_rng(seed).integers(0, grid, (200, 2)):
        share = slow_area(cell_box(cell, grid, shape), shape, None, outlines)
        is_tissue = mask is None or mask[tuple(cell)]
        assert tissue.mask[tuple(cell)] == (is_tissue and share > 1e-12)


def test_without_mask_and_outlines_everything_on_the_slide_is_tissue():
    tissue = Tissue((30, 40))
    boxes = [(0, 0, 1, 1), (29, 39, 50, 50), (-9, 0, 0, 40), (30, 0, 31, 5), (5, 5, 5, 9)]
    assert tissue.touches(np.array(boxes)).tolist() == [True, True, False, False, False]
    assert tissue.holds(np.array([(0, 0), (29.9, 39.9), (30, 0), (-0.1, 5)])).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert (tissue.area, tissue.area_fraction, tissue.is_empty, tissue.mask) == (1200, 1, False, None)


def test_no_boxes_and_no_points_give_no_answers():
    for tissue in (Tissue((30, 40)), Tissue((30, 40), np.ones((3, 4), bool), shapely.box(0, 0, 9, 9))):
        assert tissue.touches(np.zeros((0, 4), int)).shape == (0,)
        assert tissue.holds(np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    ("mask", "outlines"),
    [
        (np.zeros((5, 4), bool), None),
        (np.zeros((5, 4), bool), shapely.box(0, 0, 100, 100)),
        (None, shapely.box(500, 500, 600, 600)),
        (np.eye(2, dtype=bool), shapely.box(60, 1, 90, 40)),
        (None, shapely.Polygon()),
    ],
)
def test_nothing_to_look_at_is_empty(mask, outlines):
    tissue = Tissue((100, 100), mask, outlines)
    assert tissue.is_empty and tissue.area == 0
    assert not tissue.touches(np.array([(0, 0, 100, 100)])).any()


def test_reach_grows_boxes_first():
    mask = np.zeros((10, 10), bool)
    mask[5, 5] = True  # rows and columns 50..60 of the slide
    tissue = Tissue((100, 100), mask)
    boxes = np.array([(0, 50, 41, 60), (65, 65, 70, 70), (-30, -30, -10, -10)])
    assert tissue.touches(boxes).tolist() == [False, False, False]
    assert tissue.touches(boxes, reach=9).tolist() == [False, True, False]
    assert tissue.touches(boxes, reach=10).tolist() == [True, True, False]
    assert tissue.touches(boxes, reach=61).tolist() == [True, True, True]


def test_boxes_that_meet_outlines_only_at_their_border_are_not_touched():
    tissue = Tissue((4096, 4096), None, shapely.box(1024, 1024, 2048, 2048))
    corners = np.argwhere(np.ones((4, 4))) * 1024
    assert tissue.touches(np.concatenate([corners, corners + 1024], 1)).nonzero()[0].tolist() == [5]


def test_mask_and_outlines_that_meet_nowhere_in_a_box_leave_it_untouched():
    mask = np.zeros((10, 10), bool)
    mask[:, :3] = True
    tissue = Tissue((100, 100), mask, shapely.box(60, 0, 100, 100))
    assert tissue.is_empty and not tissue.touches(np.array([(0, 0, 100, 100)])).any()


def test_outlines_far_larger_than_the_slide_cost_nothing():
    tissue = Tissue((1000, 800), None, shapely.box(-1e12, -1e12, 400, 1e12))
    assert tissue.area == 1000 * 400
    assert tissue.holds(np.array([(0, 0), (999, 399), (5, 401)])).tolist() == [True, True, False]


def test_the_given_mask_is_not_changed():
    mask = np.ones((10, 10), bool)
    Tissue((100, 100), mask, shapely.box(0, 0, 10, 10))
    assert mask.all()


def test_threads_may_ask_at_once():
    generator = np.random.default_rng(1)
    outlines = shapely.Point(500, 500).buffer(400, quad_segs=2000)
    points = generator.uniform(0, 1000, (20_000, 2))
    wanted = ((points - 500) ** 2).sum(1) < 400**2
    tissue = Tissue((1000, 1000), np.ones((7, 7), bool), outlines)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(tissue.holds, [points] * 8))
    for held in answers:
        assert (held == wanted).mean() > 0.9999
