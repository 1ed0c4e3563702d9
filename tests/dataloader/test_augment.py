"""The warp moves image and maps alike, looks where it should, and follows from its seed alone."""

from __future__ import annotations

import os
import random
from collections import Counter

import albumentations as A
import cv2
import numpy as np
import pytest
from scipy import ndimage

from dataloader.augment import Geometry, GeometrySettings, WarpedCrop, crop_centre

STILL = GeometrySettings(scale=(1, 1), shift=0, shear=0, rotation=0, flip=0)


def make_blobs(size: int = 540) -> np.ndarray:
    """Squares of 24 pixels with the ids 1..K."""
    label_map = np.zeros((size, size), np.int32)
    for number, (y, x) in enumerate(np.ndindex(size // 36, size // 36), start=1):
        label_map[y * 36 + 6 : y * 36 + 30, x * 36 + 6 : x * 36 + 30] = number
    return label_map


def paint(label_map: np.ndarray) -> np.ndarray:
    """Give each id its own colour."""
    return np.stack([label_map * 83 % 256, label_map * 29 % 256, label_map * 7 % 256], axis=-1).astype(
        np.uint8
    )


@pytest.mark.parametrize("crop", ["centre", "random"])
@pytest.mark.parametrize("size", [270, 256])
def test_image_and_maps_move_alike(crop: str, size: int) -> None:
    label_map = make_blobs()
    type_map = (label_map % 5).astype(np.uint8)
    geometry = Geometry(size, GeometrySettings(crop=crop))
    for seed in range(8):
        image, labels, types = geometry(paint(label_map), label_map, type_map, seed=seed)
        assert types is not None
        np.testing.assert_array_equal(types, labels % 5)
        flat = ndimage.maximum_filter(labels, 5) == ndimage.minimum_filter(labels, 5)
        flat &= np.pad(np.ones((size - 4, size - 4), bool), 2)  # past the border there may be another nucleus
        assert flat.mean() > 0.4
        np.testing.assert_array_equal(image[flat], paint(labels)[flat])


def test_shapes_and_dtypes_are_kept() -> None:
    label_map = make_blobs()
    image, labels, types = Geometry(256, GeometrySettings())(paint(label_map), label_map, None, seed=0)
    assert (image.shape, image.dtype) == ((256, 256, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((256, 256), np.int32)
    assert types is None


def test_every_int32_id_is_exact() -> None:
    highest = np.iinfo(np.int32).max
    label_map = np.where(make_blobs() > 0, highest - make_blobs() + 1, 0).astype(np.int32)
    assert label_map.max() == highest
    _, labels, _ = Geometry(270, GeometrySettings())(paint(label_map), label_map, None, seed=0)
    assert set(np.unique(labels)) <= set(np.unique(label_map))


def test_one_warp_into_the_crop_equals_warping_all_and_cropping() -> None:
    label_map = make_blobs()
    settings = GeometrySettings(flip=0)
    whole = A.Affine(
        scale={"x": (0.8, 1.2), "y": (0.8, 1.2)},
        translate_percent={"x": (-0.01, 0.01), "y": (-0.01, 0.01)},
        shear={"x": (-5, 5), "y": (-5, 5)},
        rotate=(-179, 179),
        border_mode=cv2.BORDER_REFLECT_101,
        p=1,
    )
    for seed in range(5):
        image, labels, _ = Geometry(270, settings)(paint(label_map), label_map, None, seed=seed)
        whole.set_random_state(np.random.default_rng(seed), random.Random(seed))
        warped = whole(image=paint(label_map), mask=label_map.astype(np.float32))
        assert (labels == crop_centre(warped["mask"], 270)).mean() > 0.999  # rounding to OpenCV's 1/32 pixel
        difference = np.abs(image.astype(int) - crop_centre(warped["image"], 270))
        assert np.percentile(difference, 99) <= 8


@pytest.mark.parametrize("size", [270, 256, 164])
def test_a_random_window_looks_inside_the_patch(size: int) -> None:
    transform = WarpedCrop(size, GeometrySettings(crop="random"))
    corners = np.array([(x, y, 1) for x in (0, size - 1) for y in (0, size - 1)]).T
    centres = []
    for seed in range(200):
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        matrix = transform.get_params_dependent_on_data({"shape": (540, 540, 3)}, {})["matrix"]
        seen = np.linalg.inv(matrix) @ corners
        assert seen[:2].min() >= 0 and seen[:2].max() <= 539
        centres.append(seen[:2].mean(axis=1))
    assert np.std(centres, axis=0).min() > 15  # the window moves


def test_a_window_as_large_as_the_patch_is_its_centre() -> None:
    label_map = make_blobs(270)
    for crop in ("centre", "random"):
        geometry = Geometry(
            270, GeometrySettings(crop=crop, scale=(1, 1), shift=0, shear=0, rotation=0, flip=0)
        )
        _, labels, _ = geometry(paint(label_map), label_map, None, seed=1)
        np.testing.assert_array_equal(labels, label_map)


@pytest.mark.parametrize("size", [540, 539, 538, 270])
def test_no_warp_cuts_the_centre_exactly(size: int) -> None:
    label_map = make_blobs()
    image, labels, _ = Geometry(size, STILL)(paint(label_map), label_map, None, seed=0)
    np.testing.assert_array_equal(labels, crop_centre(label_map, size))
    np.testing.assert_array_equal(image, crop_centre(paint(label_map), size))


def test_the_seed_alone_decides() -> None:
    label_map = make_blobs()
    geometry = Geometry(270, GeometrySettings(crop="random"))
    first = geometry(paint(label_map), label_map, None, seed=5)
    other = geometry(paint(label_map), label_map, None, seed=6)
    again = Geometry(270, GeometrySettings(crop="random"))(paint(label_map), label_map, None, seed=5)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(geometry(paint(label_map), label_map, None, seed=5)[1], first[1])
    assert (first[1] != other[1]).any()


def test_the_two_flips_are_drawn_apart() -> None:
    label_map = np.arange(64, dtype=np.int32).reshape(8, 8)
    geometry = Geometry(8, GeometrySettings(scale=(1, 1), shift=0, shear=0, rotation=0, flip=0.5))
    image = np.zeros((8, 8, 3), np.uint8)
    corners = Counter(int(geometry(image, label_map, None, seed=seed)[1][0, 0]) for seed in range(400))
    assert set(corners) == {0, 7, 56, 63}
    assert min(corners.values()) > 70  # 100 expected, standard deviation 9


def test_what_lies_outside_the_patch_is_its_reflection() -> None:
    label_map = np.ones((60, 60), np.int32)
    _, labels, _ = Geometry(60, GeometrySettings(rotation=45))(paint(label_map), label_map, None, seed=3)
    assert (labels == 1).all()


def test_albumentations_does_not_ask_the_network() -> None:
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


@pytest.mark.parametrize("change", [{"crop": "corner"}, {"scale": (1.2, 0.8)}, {"scale": (0, 1)}])
def test_unknown_settings_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="centre, random|both above 0"):
        GeometrySettings(**change)
