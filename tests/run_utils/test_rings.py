import itertools

import cv2
import numpy as np
import pytest
from shapely.geometry import Polygon

from models.hovernet.describe import describe
from run_utils.outputs.rings import (
    Outlines,
    centroids_of_rings,
    contour_of_ring,
    contours_of_rings,
    fill_contour,
    ring_along_edges,
    rings_along_edges,
    rings_of,
)


def rough_masks(num_masks=300):
    """Random nuclei-sized blobs with spikes, holes, bridges a pixel wide and corners that touch."""
    rng = np.random.default_rng(11)
    for index in range(num_masks):
        mask = rng.random(rng.integers(1, 14, 2)) < (0.35, 0.55, 0.75)[index % 3]
        if mask.any():
            yield mask.astype(np.uint8)


def outer_contours(mask):
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0, ::-1] for contour in contours]


def outlines(pieces):
    return Outlines(np.concatenate(pieces), np.cumsum([0, *map(len, pieces)]))


def split(joined):
    return np.split(joined.points, joined.starts[1:-1])


def polygon_of(ring):
    return Polygon(ring[:, ::-1])


def test_rings_of_any_shape_are_valid_and_hold_the_pixels_of_the_largest_piece():
    for mask in rough_masks():
        for contour in outer_contours(mask):
            ring = ring_along_edges(contour)
            polygon = polygon_of(ring)
            filled, _ = fill_contour(contour)
            assert polygon.is_valid
            assert polygon.exterior.is_ccw  # positive area in (x, y), as GeoJSON wants
            assert (ring[0] == ring[-1]).all()
            assert len(ring) >= 5
            assert polygon.area == largest_piece_size(filled)


def largest_piece_size(mask):
    """Pixels of the largest 4-connected piece, holes filled, by flooding in plain Python."""
    todo, sizes = {tuple(pixel) for pixel in np.argwhere(mask)}, []
    while todo:
        piece, front = set(), [todo.pop()]
        while front:
            y, x = front.pop()
            piece.add((y, x))
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & todo
            todo -= near
            front += near
        sizes.append(len(piece) + num_enclosed(piece, mask.shape))
    return max(sizes)


def num_enclosed(piece, shape):
    """Pixels outside a piece from which no walk along sides leads out."""
    everywhere = set(itertools.product(range(-1, shape[0] + 1), range(-1, shape[1] + 1)))
    free, front = everywhere - piece, [(-1, -1)]
    free.remove((-1, -1))
    while front:
        y, x = front.pop()
        near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & free
        free -= near
        front += near
    return len(free)


def test_a_ring_and_its_contour_are_inverse():
    for mask in rough_masks(100):
        ring = ring_along_edges(outer_contours(mask)[0])
        np.testing.assert_array_equal(
            np.unique(ring_along_edges(contour_of_ring(ring)), axis=0), np.unique(ring, axis=0)
        )


def test_the_contour_of_a_ring_is_that_which_opencv_traces():
    for mask in rough_masks(100):
        polygon = polygon_of(ring_along_edges(outer_contours(mask)[0]))
        centres = np.argwhere(np.ones_like(mask)) + 0.5
        inside = [polygon.contains(polygon_of_pixel(y, x)) for y, x in centres - 0.5]
        piece = np.array(inside).reshape(mask.shape).astype(np.uint8)
        (expected,) = outer_contours(piece)
        found = contour_of_ring(np.array(polygon.exterior.coords)[:, ::-1].astype(np.int64))
        assert sorted(map(tuple, found)) == sorted(map(tuple, expected))


def polygon_of_pixel(y, x):
    return Polygon([(x + 0.4, y + 0.4), (x + 0.6, y + 0.4), (x + 0.6, y + 0.6), (x + 0.4, y + 0.6)])


def test_many_outlines_at_once_are_those_of_one_at_a_time():
    contours = [contour for mask in rough_masks(60) for contour in outer_contours(mask)]
    rings = rings_along_edges(outlines(contours))
    for contour, ring in zip(contours, split(rings), strict=True):
        np.testing.assert_array_equal(ring, ring_along_edges(contour))
    for ring, contour in zip(split(rings), split(contours_of_rings(rings)), strict=True):
        np.testing.assert_array_equal(contour, contour_of_ring(ring))


def test_the_sense_of_an_outline_does_not_matter():
    for mask in rough_masks(60):
        contour = outer_contours(mask)[0]
        ring = ring_along_edges(contour)
        assert polygon_of(ring_along_edges(contour[::-1])).equals(polygon_of(ring))
        again = ring_along_edges(contour_of_ring(ring[::-1]))
        assert polygon_of(again).equals(polygon_of(ring))


@pytest.mark.parametrize(
    ("contour", "corners"),
    [
        ([(3, 5)], [(3, 5), (3, 6), (4, 6), (4, 5)]),
        ([(3, 5), (3, 5)], [(3, 5), (3, 6), (4, 6), (4, 5)]),
        ([(0, 0), (0, 4)], [(0, 0), (0, 5), (1, 5), (1, 0)]),
        ([(2, 1), (7, 1)], [(2, 1), (2, 2), (8, 2), (8, 1)]),
        ([(0, 0), (0, 1), (1, 1), (1, 0)], [(0, 0), (0, 2), (2, 2), (2, 0)]),
    ],
)
def test_a_pixel_a_line_and_a_square_have_rectangles_as_rings(contour, corners):
    ring = ring_along_edges(np.array(contour, np.int32))
    assert polygon_of(ring).equals(polygon_of(np.array(corners)))
    assert len(ring) == 5


def test_pixels_that_meet_only_at_a_corner_give_the_ring_of_one():
    polygon = polygon_of(ring_along_edges(np.array([(0, 0), (2, 2)], np.int32)))
    assert polygon.is_valid
    assert polygon.area == 1


def test_any_polygon_is_filled_before_it_is_walked_along():
    contour = np.array([(0, 0), (1, 9), (7, 4)], np.int32)  # slopes that no walk from pixel to pixel has
    filled, _ = fill_contour(contour)
    polygon = polygon_of(ring_along_edges(contour))
    assert polygon.is_valid
    assert polygon.area == filled.sum()


@pytest.mark.parametrize("shape", [(1, 12), (12, 1), (1, 1)])
def test_a_thin_nucleus_whose_contour_is_its_box_has_the_ring_of_its_pixels(shape):
    label_map = np.zeros((20, 20), np.int32)
    label_map[4 : 4 + shape[0], 5 : 5 + shape[1]] = 1
    nuclei = describe(label_map)
    assert polygon_of(rings_of(nuclei).points).bounds == (5, 4, 5 + shape[1], 4 + shape[0])


def test_centroids_of_rings_are_the_means_of_their_pixels():
    contours = [outer_contours(mask)[0] + (70_000, 90_000) for mask in rough_masks(60)]
    rings = rings_along_edges(outlines(contours))
    for centroid, contour in zip(centroids_of_rings(rings), split(contours_of_rings(rings)), strict=True):
        mask, corner = fill_contour(contour)
        np.testing.assert_allclose(centroid, np.argwhere(mask).mean(0) + corner, atol=1e-9)


def test_far_out_on_a_slide_rings_are_the_same():
    contours = [contour for mask in rough_masks(60) for contour in outer_contours(mask)]
    offset = np.array([150_000, 200_000], np.int32)  # products of such positions do not fit into int32
    far = rings_along_edges(outlines([contour + offset for contour in contours]))
    np.testing.assert_array_equal(far.points - offset, rings_along_edges(outlines(contours)).points)


def test_no_outlines_give_none():
    empty = Outlines(np.zeros((0, 2), np.int32), np.zeros(1, np.int64))
    assert rings_along_edges(empty).points.shape == (0, 2)
    assert contours_of_rings(empty).points.shape == (0, 2)
