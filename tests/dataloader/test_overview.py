from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from dataloader.overview import BLOCK_SIDE, num_read_threads, overview_mpp, read_overview
from dataloader.slides import Level, open_slide
from dataloader.slides.slide import Slide
from tests.conftest import ROOT

RNG = np.random.default_rng(11)


def mean_of_equal_shares(image, shape):
    """The mean over each overview pixel's share of the image, slowly."""

    def shares(size, num_pixels):
        weights = np.zeros((num_pixels, size))
        for i in range(num_pixels):
            low, high = i * size / num_pixels, (i + 1) * size / num_pixels
            for j in range(size):
                weights[i, j] = max(0.0, min(high, j + 1) - max(low, j))
        return weights / weights.sum(1, keepdims=True)

    rows, columns = shares(image.shape[0], shape[0]), shares(image.shape[1], shape[1])
    return np.einsum("ij,jkc,lk->ilc", rows, image, columns)


class Reader:
    """A slide in memory that keeps count of what is read."""

    path = Path("memory")
    mpp = None
    origin_level0 = (0, 0)

    def __init__(self, shapes, paint=None):
        self.levels = tuple(Level.of(shape, shapes[0]) for shape in shapes)
        self.paint = paint
        self.blocks = []

    def read_level(self, level, box):
        self.blocks.append((level, box))
        shape = (box[2] - box[0], box[3] - box[1], 3)
        return self.paint(level, box) if self.paint else np.full(shape, 200, np.uint8)

    def close(self):
        pass


@pytest.mark.parametrize("limit", [1, 7, 60, 1000, 3456, 71 * 103])
def test_each_pixel_is_the_mean_of_an_equal_share_of_the_slide(tmp_path, limit):
    image = RNG.integers(0, 256, (71, 103, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "noise.png")
    with open_slide(tmp_path / "noise.png") as slide:
        overview = read_overview(slide, limit)
    assert 0 < overview.shape[0] * overview.shape[1] <= limit
    wanted = mean_of_equal_shares(image, overview.shape[:2])
    tolerance = 1 if limit > 500 else 6  # pixels are first averaged 2 x 2 or more, which rounds and blurs
    np.testing.assert_allclose(overview, wanted, atol=tolerance)


@pytest.mark.parametrize("limit", [400, 10_000, 10**9])
def test_a_blockwise_read_shows_every_place_where_it_is(tmp_path, limit):
    """Ramps of 3000 x 2100 px, in blocks: no pixel may be off by more than its own width."""
    y, x = np.mgrid[:3000, :2100]
    image = np.stack([y * 256 // 3000, x * 256 // 2100, np.full_like(y, 77)], 2).astype(np.uint8)
    path = tmp_path / "ramp.tif"
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression="deflate")
    with open_slide(path) as slide:
        overview = read_overview(slide, limit)
    height, width = overview.shape[:2]
    rows = ((np.arange(height) + 0.5) * 256 / height - 0.5)[:, None].repeat(width, 1)
    columns = ((np.arange(width) + 0.5) * 256 / width - 0.5)[None].repeat(height, 0)
    assert np.abs(overview[..., 0] - rows).max() <= 1.1
    assert np.abs(overview[..., 1] - columns).max() <= 1.1
    assert (overview[..., 2] == 77).all()


def test_the_aspect_is_kept_and_no_picture_is_larger_than_its_slide():
    for shape in [(6000, 4500), (300, 200), (1, 5_000_000), (90_000, 3), (1025, 1024)]:
        overview = read_overview(Slide(Reader([shape])), 1000)
        height, width = overview.shape[:2]
        assert height * width <= 1000 and height <= shape[0] and width <= shape[1]
        if min(height, width) > 20:
            assert height / width == pytest.approx(shape[0] / shape[1], rel=0.05)


def test_a_huge_slide_of_one_level_is_read_in_small_blocks_each_pixel_once():
    reader = Reader([(60_000, 10_000)])
    overview = read_overview(Slide(reader))
    assert overview.shape == (2508, 418, 3) and (overview == 200).all()
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for _, box in reader.blocks]
    assert max(areas) <= BLOCK_SIDE**2 <= 16e6
    assert sum(areas) == 60_000 * 10_000


def test_the_coarsest_level_that_is_fine_enough_is_read():
    reader = Reader([(60_000, 60_000), (15_000, 15_000), (3750, 3750), (937, 937)])
    read_overview(Slide(reader))
    assert {level for level, _ in reader.blocks} == {2}


def test_levels_that_a_scanner_trimmed_agree_with_level_0():
    def paint(level, box):
        scale = (4.0, 16.0)[level - 1]
        y = (np.arange(box[0], box[2]) + 0.5) * scale
        return np.broadcast_to(
            (y * 255 / 40_003).astype(np.uint8)[:, None, None], (len(y), box[3] - box[1], 3)
        )

    reader = Reader([(40_003, 30_009), (10_000, 7502), (2500, 1875)], paint)
    overview = read_overview(Slide(reader), 100_000)
    wanted = (np.arange(len(overview)) + 0.5) * 255 / len(overview)
    assert np.abs(overview[:, 0, 0] - wanted).max() < 1.5


@pytest.mark.parametrize(("usable", "expected"), [({3}, 1), (set(range(64)), 4)])
def test_no_more_threads_read_than_this_process_has_cpus(usable, expected, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: usable, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert num_read_threads() == expected


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="pixel_limit=0 must be at least 1"):
        read_overview(Slide(Reader([(10, 10)])), 0)


def test_the_overview_knows_its_resolution():
    with open_slide(ROOT / "samples" / "CMU-1-Small-Region.svs") as slide:
        overview = read_overview(slide, 10_000)
        assert overview_mpp(slide, overview) == pytest.approx(0.499 * 2967 / len(overview))
    assert overview_mpp(Slide(Reader([(10, 10)])), np.zeros((5, 5, 3))) is None
