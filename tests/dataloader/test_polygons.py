"""Polygons become the pixels whose centre they hold, each nucleus by itself, and none is lost without a word."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import shapely

from dataloader.annotations.polygons import draw_polygons


def square(x: float, y: float, size: float) -> np.ndarray:
    return np.array([[x, y], [x + size, y], [x + size, y + size], [x, y + size]])


def make_star(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> np.ndarray:
    angles = np.sort(rng.uniform(0, 2 * np.pi, 17))
    radii = rng.uniform(0.4, 1, 17) * radius
    return np.stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)], axis=1)


def contains_centres(polygon: shapely.Geometry, shape: tuple[int, int]) -> np.ndarray:
    """The definition, by shapely, pixel for pixel."""
    x, y = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    return shapely.contains_xy(polygon, x, y)


@pytest.mark.parametrize("seed", range(30))
def test_a_pixel_belongs_where_its_centre_lies_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outer = make_star(rng, tuple(rng.uniform(-5, 45, 2)), 20)
    hole = outer.mean(axis=0) + (outer - outer.mean(axis=0)) * 0.3
    rings = [outer, hole[::-1] if seed % 2 else hole]
    drawn = draw_polygons([[rings]], (30, 40))
    expected = contains_centres(shapely.Polygon(outer).difference(shapely.Polygon(hole)), (30, 40))
    if expected.any():
        np.testing.assert_array_equal(drawn > 0, expected)
    else:
        assert (drawn > 0).sum() <= 1


def test_a_closed_ring_and_an_open_one_are_the_same() -> None:
    ring = square(1.2, 2.3, 6)
    closed = np.concatenate([ring, ring[:1]])
    np.testing.assert_array_equal(draw_polygons([[[ring]]], (9, 9)), draw_polygons([[[closed]]], (9, 9)))


def test_a_square_of_whole_pixels_holds_just_these() -> None:
    expected = np.zeros((8, 9), np.int32)
    expected[3:5, 2:4] = 1
    drawn = draw_polygons([[[square(2, 3, 2)]]], (8, 9))
    np.testing.assert_array_equal(drawn, expected)
    assert drawn.dtype == np.int32


def test_touching_polygons_neither_overlap_nor_leave_a_gap() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, 40, (60, 2)), np.floor(rng.uniform(0, 40, (60, 2))) + 0.5])
    triangles = list(shapely.delaunay_triangles(shapely.MultiPoint(points)).geoms)
    rings = [np.array(triangle.exterior.coords) for triangle in triangles]
    counts = sum(
        (draw_polygons([[[ring]]], (40, 40)) > 0).astype(int) for ring in rings if holds_centre(ring)
    )
    whole = draw_polygons([[[ring] for ring in rings]], (40, 40)) > 0
    inside = contains_centres(shapely.convex_hull(shapely.MultiPoint(points)), (40, 40))
    assert whole[inside].all()
    assert counts.max() == 1


def holds_centre(ring: np.ndarray) -> bool:
    """Whether a polygon is drawn by its area, and not as the one pixel that a smaller one gets."""
    return bool(contains_centres(shapely.Polygon(ring), (40, 40)).any())


def test_touching_nuclei_stay_separate() -> None:
    drawn = draw_polygons([[[square(0, 0, 4)]], [[square(4, 0, 4)]]], (4, 8))
    np.testing.assert_array_equal(drawn, np.repeat([[1, 2]], 4, axis=1) * np.ones((4, 1), int))


def test_a_later_nucleus_paints_over_an_earlier_one() -> None:
    drawn = draw_polygons([[[square(0, 0, 5)]], [[square(3, 0, 5)]]], (5, 8))
    np.testing.assert_array_equal(drawn[0], [1, 1, 1, 2, 2, 2, 2, 2])


def test_a_hole_shows_what_lies_below() -> None:
    ring_with_hole = [square(0, 0, 9), square(3, 3, 3)]
    assert draw_polygons([[ring_with_hole]], (9, 9))[4, 4] == 0
    assert draw_polygons([[[square(3, 3, 3)]], [ring_with_hole]], (9, 9))[4, 4] == 1


def test_a_nucleus_of_two_polygons_has_one_id() -> None:
    drawn = draw_polygons([[[square(0, 0, 2)], [square(5, 0, 2)]]], (2, 8))
    np.testing.assert_array_equal(drawn[0], [1, 1, 0, 0, 0, 1, 1, 0])


def test_a_ring_that_winds_twice_has_no_hole() -> None:
    twice = np.concatenate([square(0, 0, 8), square(0, 0, 4)])
    assert (draw_polygons([[[twice]]], (8, 8)) == 1).all()


def test_what_lies_outside_the_image_is_cut_off() -> None:
    drawn = draw_polygons([[[square(-3, -2, 5)]], [[square(-1e8, 4, 2e8)]]], (6, 7))
    np.testing.assert_array_equal(drawn[:, 0], [1, 1, 1, 0, 2, 2])
    np.testing.assert_array_equal(drawn[0], [1, 1, 0, 0, 0, 0, 0])


def test_a_nucleus_smaller_than_a_pixel_keeps_one() -> None:
    drawn = draw_polygons([[[square(2.6, 1.1, 0.2)]]], (4, 4))
    assert np.argwhere(drawn).tolist() == [[1, 2]]


def test_nuclei_without_a_pixel_are_named(caplog: pytest.LogCaptureFixture) -> None:
    nuclei = [[[square(0, 0, 2)]], [[square(0, 0, 3)]], [[square(50, 50, 3)]], []]
    with caplog.at_level(logging.WARNING):
        drawn = draw_polygons(nuclei, (4, 4), names=["under", "over", "away", "empty"], source="a.xml")
    assert np.unique(drawn).tolist() == [0, 2]
    assert "a.xml: 3 of 4 nuclei have no pixel" in caplog.text
    assert "under, away, empty" in caplog.text


def test_no_nuclei_give_an_empty_map() -> None:
    assert not draw_polygons([], (3, 4)).any()


@pytest.mark.parametrize(
    "ring",
    [[[0, 0], [1, np.nan], [1, 1]], [[0, 0], [1e300, 0], [0, 1e300]], [[0, 0, 0], [1, 1, 1]], [1, 2, 3]],
)
def test_a_ring_that_is_none_is_refused_by_name(ring: list) -> None:
    with pytest.raises(ValueError, match=r"a.xml: nucleus 1: a ring .*mend the file"):
        draw_polygons([[[np.array(ring, float)]]], (4, 4), source="a.xml")
