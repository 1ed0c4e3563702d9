import math

import cv2
import numpy as np
import pytest
import shapely
from scipy import ndimage
from skimage.measure import regionprops

from models.hovernet.describe import describe
from run_utils.outputs.measures import measure
from run_utils.outputs.result import PackedLabels, Part


def part_of(label_map, origin_yx=(0, 0)):
    nuclei = describe(label_map).shift(origin_yx)
    return Part(nuclei, PackedLabels.pack(label_map, origin_yx), len(label_map))


def drawn(num_nuclei=40):
    """Ellipses of any size and slope, some cut by the border of the map."""
    rng = np.random.default_rng(5)
    label_map = np.zeros((5 * 44, 8 * 44), np.int32)
    for index in range(num_nuclei):
        centre = (index % 8 * 44 + int(rng.integers(4, 40)), index // 8 * 44 + int(rng.integers(4, 40)))
        axes = rng.integers(3, 16, 2).tolist()
        window = np.zeros_like(label_map, np.uint8)
        cv2.ellipse(window, centre, axes, int(rng.integers(180)), 0, 360, 1, cv2.FILLED)
        label_map[(window > 0) & (label_map == 0)] = index + 1
    _, gapless = np.unique(label_map, return_inverse=True)
    return gapless.reshape(label_map.shape).astype(np.int32)


@pytest.fixture
def shapes_and_props():
    label_map = drawn()
    return measure(part_of(label_map, (7_000, 90_000))), regionprops(label_map)


def test_areas_are_the_numbers_of_pixels(shapes_and_props):
    shapes, props = shapes_and_props
    np.testing.assert_array_equal(shapes.area, [prop.area for prop in props])


def test_axes_are_those_of_scikit_image_and_the_extent_of_a_pixel(shapes_and_props):
    shapes, props = shapes_and_props
    pixel = 16 / 12  # scikit-image takes pixels as points: 16 is 4², 1/12 the variance of a pixel's width
    major = np.sqrt(np.square([prop.axis_major_length for prop in props]) + pixel)
    minor = np.sqrt(np.square([prop.axis_minor_length for prop in props]) + pixel)
    np.testing.assert_allclose(shapes.major_axis, major, rtol=1e-7)
    np.testing.assert_allclose(shapes.minor_axis, minor, rtol=1e-7)
    np.testing.assert_allclose(shapes.eccentricity, np.sqrt(1 - (minor / major) ** 2), rtol=1e-6, atol=1e-6)


def test_the_orientation_is_measured_from_the_x_axis(shapes_and_props):
    shapes, props = shapes_and_props
    for ours, prop in zip(shapes.orientation, props, strict=True):
        assert -math.pi / 2 < ours <= math.pi / 2
        theirs = math.pi / 2 - prop.orientation  # that is measured from the y axis
        if prop.eccentricity > 0.1:
            assert abs(math.sin(ours - theirs)) < 1e-6


def test_solidity_counts_the_pixels_in_the_hull():
    rng = np.random.default_rng(3)
    for size in range(3, 13):
        label_map = (rng.random((size, size + 3)) < 0.8).astype(np.int32)
        label_map[size // 2] = label_map[:, size // 2] = 1
        pieces, _ = ndimage.label(label_map)
        label_map = (pieces == pieces[size // 2, 0]).astype(np.int32)
        hull = shapely.convex_hull(shapely.multipoints(np.argwhere(label_map)))
        num_inside = shapely.covers(hull, shapely.points(np.argwhere(np.ones_like(label_map)))).sum()
        assert measure(part_of(label_map)).solidity[0] == pytest.approx(label_map.sum() / num_inside)


@pytest.mark.parametrize("radius", [4, 8, 12, 20, 40])
def test_discs_have_the_perimeter_of_their_circles(radius):
    rng = np.random.default_rng(radius)
    errors = []
    for _ in range(40):
        true_radius, (top, left) = radius + rng.random() - 0.5, rng.random(2)
        y, x = np.mgrid[-radius - 3 : radius + 4, -radius - 3 : radius + 4]
        shapes = measure(part_of(((y - top) ** 2 + (x - left) ** 2 <= true_radius**2).astype(np.int32)))
        errors.append(shapes.perimeter[0] / (2 * math.pi * true_radius) - 1)
        assert shapes.solidity[0] == 1
        assert 0.92 < shapes.circularity[0] <= 1
    assert abs(np.mean(errors)) < 0.01
    assert np.max(np.abs(errors)) < 0.25 / radius


def test_an_ellipse_has_the_perimeter_that_ramanujan_gives():
    y, x = np.mgrid[-50:51, -50:51]
    for degrees in (0, 20, 45, 70):
        along = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
        across = y * math.cos(math.radians(degrees)) - x * math.sin(math.radians(degrees))
        shapes = measure(part_of(((along / 40) ** 2 + (across / 20) ** 2 <= 1).astype(np.int32)))
        h = ((40 - 20) / (40 + 20)) ** 2
        expected = math.pi * (40 + 20) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
        assert shapes.perimeter[0] == pytest.approx(expected, rel=0.025)
        assert math.degrees(shapes.orientation[0]) == pytest.approx(degrees, abs=0.5)


def test_a_rectangle_has_no_dents():
    label_map = np.zeros((20, 30), np.int32)
    label_map[3:9, 4:25] = 1
    shapes = measure(part_of(label_map))
    assert shapes.area[0] == 6 * 21
    assert shapes.solidity[0] == 1
    assert shapes.major_axis[0] == pytest.approx(
        4 * math.sqrt(21**2 / 12)
    )  # the variance of a segment is L² / 12
    assert shapes.minor_axis[0] == pytest.approx(4 * math.sqrt(6**2 / 12))


def test_an_angle_is_not_solid():
    label_map = np.zeros((12, 12), np.int32)
    label_map[1:11, 1] = label_map[10, 1:11] = 1
    hull = 10 * 11 / 2  # pixels of the triangle that the two ends span
    assert measure(part_of(label_map)).solidity[0] == pytest.approx(19 / hull)


def test_a_hole_is_no_area():
    label_map = np.zeros((12, 12), np.int32)
    label_map[2:10, 2:10] = 1
    label_map[5:7, 5:7] = 0
    assert measure(part_of(label_map)).area[0] == 60


@pytest.mark.parametrize("shape", [(1, 1), (1, 14), (14, 1)])
def test_thin_nuclei_have_finite_measures(shape):
    label_map = np.zeros((20, 20), np.int32)
    label_map[3 : 3 + shape[0], 4 : 4 + shape[1]] = 1
    shapes = measure(part_of(label_map))
    assert shapes.area[0] == shape[0] * shape[1]
    assert shapes.solidity[0] == 1
    assert all(np.isfinite(column).all() for column in shapes)
    assert shapes.minor_axis[0] == pytest.approx(4 * math.sqrt(1 / 12))


def test_a_nucleus_at_both_ends_of_neighbouring_rows_is_no_run():
    label_map = np.zeros((2, 9), np.int32)
    label_map[0, 8] = label_map[1, 0] = 1
    label_map[0, 0] = label_map[1, 8] = 1
    shapes = measure(part_of(label_map))
    assert shapes.area[0] == 4
    assert shapes.major_axis[0] == pytest.approx(
        4 * math.sqrt(16 + 1 / 12)
    )  # columns 0 and 8: 4 from the mean


def test_a_part_without_nuclei_has_no_measures():
    shapes = measure(part_of(np.zeros((5, 5), np.int32)))
    assert all(column.shape == (0,) for column in shapes)
