"""Pixels for a fit lie on tissue, all over it, and are the same on every call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from dataloader.slides import open_slide
from dataloader.tissue import Tissue
from dataloader.tissue_pixels import NUM_SQUARES, SQUARE_SIDE, sample_slide, sample_tissue

SIDE = 3000


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose red tells the row and whose green tells the column of a pixel, in hundreds."""
    y, x = np.mgrid[:SIDE, :SIDE] // 100
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    image = np.stack([y, x, np.full_like(x, 200)], -1).astype(np.uint8)
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression="deflate")
    return path


def places(pixels: np.ndarray) -> np.ndarray:
    """Return the (row, column) hundreds that pixels come from."""
    return np.unique(pixels.reshape(-1, 3)[:, :2], axis=0)


def test_a_small_image_gives_all_of_its_pixels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    tifffile.imwrite(tmp_path / "small.tif", image, photometric="rgb")
    with open_slide(tmp_path / "small.tif") as slide:
        assert np.array_equal(sample_tissue(slide, None, None), image[None])
        assert np.array_equal(sample_slide(slide), image[None])


def test_squares_are_spread_over_the_whole_slide_and_repeat(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        pixels = sample_tissue(slide, None, None)
        assert np.array_equal(pixels, sample_tissue(slide, None, None))
    assert pixels.shape == (NUM_SQUARES, SQUARE_SIDE, SQUARE_SIDE, 3) and pixels.dtype == np.uint8
    quarters = np.unique(places(pixels) // 8, axis=0)
    assert len(quarters) == 16  # some pixel from each 800 px of a side


def test_squares_lie_around_tissue_alone(slide_path: Path) -> None:
    mask = np.zeros((30, 30), bool)
    mask[20:24, 3:9] = True  # cells of 100 px
    with open_slide(slide_path) as slide:
        found = places(sample_tissue(slide, None, Tissue((SIDE, SIDE), mask)))
    reach = SQUARE_SIDE // 2 // 100 + 1
    assert found.min(0).tolist() >= [20 - reach, 3 - reach]
    assert (found.max(0) <= [23 + reach, 8 + reach]).all()
    assert {(row, column) for row, column in found.tolist()} >= {
        (r, c) for r in range(20, 24) for c in range(3, 9)
    }


def test_without_tissue_there_are_no_pixels(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        assert sample_tissue(slide, None, Tissue((SIDE, SIDE), np.zeros((9, 9), bool)))[..., 0].size == 0


def test_a_working_resolution_scales_what_is_read(slide_path: Path) -> None:
    with open_slide(slide_path, 0.25) as slide:
        pixels = sample_tissue(slide, 0.5, None)
    assert pixels.shape == (1, 1500, 1500, 3)  # few enough pixels to take all
