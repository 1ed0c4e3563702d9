"""The cuCIM reader, driven by a fake ``cucim`` module that reads with tifffile.

The fake shows when our reader turns to cuCIM and when it does not; that cuCIM's own pixels are right is shown by
``tests/contracts/test_readers.py``, where cuCIM is installed.
"""

import logging
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from dataloader.slides import SlideError, open_slide
from tests.logs import own_records
from tests.slide_files import (
    MPP,
    SHAPE,
    block_mean,
    damage_tile,
    smooth_image,
    write_aperio,
    write_flat_pyramid,
)


class FakeCuImage:
    """As much of ``cucim.CuImage`` as is used: (x, y) at level 0, rounded down to the level's own pixels."""

    handles: list["FakeCuImage"] = []
    spoil = None  # changes pixels, or raises

    def __init__(self, path):
        self.thread = threading.get_ident()
        with tifffile.TiffFile(path) as file:
            self.images = [level.asarray() for level in file.series[0].levels]
        self.handles.append(self)

    @property
    def resolutions(self):
        sizes = [image.shape[1::-1] for image in self.images]
        return {
            "level_dimensions": tuple(sizes),
            "level_downsamples": tuple(sizes[0][0] / width for width, _ in sizes),
        }

    def read_region(self, location, size, level):
        assert threading.get_ident() == self.thread, "two threads must not read from one handle"
        step = self.resolutions["level_downsamples"][level]
        x, y = (int(place // step) for place in location)
        pixels = self.images[level][y : y + size[1], x : x + size[0]]
        return pixels if self.spoil is None else type(self).spoil(pixels)


@pytest.fixture
def fake(monkeypatch):
    class Fresh(FakeCuImage):
        handles: list[FakeCuImage] = []

    module = types.ModuleType("cucim")
    module.CuImage = Fresh
    monkeypatch.setitem(sys.modules, "cucim", module)
    monkeypatch.delitem(sys.modules, "dataloader.slides.cucim", raising=False)
    yield Fresh
    sys.modules.pop("dataloader.slides.cucim", None)


@pytest.fixture(scope="module")
def image():
    return smooth_image()


@pytest.fixture
def path(image, tmp_path):
    write_flat_pyramid(tmp_path / "a.tif", image)
    return tmp_path / "a.tif"


def test_cucim_reads_where_it_can(fake, path, image):
    fake.spoil = lambda pixels: pixels ^ 1  # within what two decoders may differ, so that its pixels are told
    with open_slide(path, reader="cucim") as slide:
        assert slide.mpp == pytest.approx(MPP)
        np.testing.assert_array_equal(slide.read((5, 9, 200, 300)), image[5:200, 9:300] ^ 1)
        np.testing.assert_array_equal(
            slide.read((3, 7, 70, 99), 4 * MPP), block_mean(image, 4)[3:70, 7:99] ^ 1
        )


def test_each_thread_reads_from_a_handle_of_its_own(fake, path, image):
    barrier = threading.Barrier(4)

    def read(left):
        barrier.wait(10)  # so that four threads are at it
        return slide.read((0, left, 50, left + 50))

    with open_slide(path, reader="cucim") as slide, ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            for left, pixels in zip(range(0, 200, 50), pool.map(read, range(0, 200, 50)), strict=True):
                np.testing.assert_array_equal(pixels, image[:50, left : left + 50])
    assert len(fake.handles) == 1 + 4  # this thread's, from opening the slide, and the pool's
    assert len({handle.thread for handle in fake.handles}) == 5


def raise_(error):
    raise error


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pixels: raise_(RuntimeError("This format (compression: 8) is not supported yet!")),
        lambda pixels: pixels[..., ::-1],  # colours the wrong way round
    ],
)
def test_the_tiff_reader_takes_over_what_cucim_reads_wrongly_and_one_line_says_so(
    fake, path, image, spoil, caplog
):
    fake.spoil = spoil
    with caplog.at_level(logging.INFO), open_slide(path, reader="cucim") as slide:
        np.testing.assert_array_equal(slide.read((0, 0, *SHAPE)), image)
    (record,) = own_records(caplog)
    assert "a.tif: cuCIM" in record.getMessage()
    assert "the TIFF reader reads it" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_the_tiff_reader_takes_over_a_file_that_cucim_cannot_open(fake, path, image, monkeypatch, caplog):
    monkeypatch.setattr(fake, "__init__", lambda self, path: raise_(ValueError(f"Cannot load {path}!")))
    with open_slide(path, reader="cucim") as slide:
        np.testing.assert_array_equal(slide.read((0, 0, *SHAPE)), image)
    assert len(own_records(caplog)) == 1


def test_the_tiff_reader_takes_over_where_cucim_finds_other_levels(fake, path, image, monkeypatch):
    other = {"level_dimensions": ((452, 300),), "level_downsamples": (1.0,)}
    monkeypatch.setattr(fake, "resolutions", other)
    with open_slide(path, reader="cucim") as slide:
        assert len(slide.levels) == 3
        np.testing.assert_array_equal(slide.read((0, 0, 75, 113), 4 * MPP), block_mean(image, 4))


def test_boxes_that_cucim_fails_on_are_read_by_the_tiff_reader_with_one_warning(fake, path, image, caplog):
    with caplog.at_level(logging.INFO), open_slide(path, reader="cucim") as slide:
        fake.spoil = lambda pixels: raise_(RuntimeError("failed in mid-slide"))
        for _ in range(3):
            np.testing.assert_array_equal(slide.read((0, 0, *SHAPE)), image)
    (record,) = own_records(caplog)
    assert record.levelno == logging.WARNING
    assert (
        "a.tif: cuCIM failed on box (0, 0, 300, 452) of level 0 (failed in mid-slide)" in record.getMessage()
    )


def test_a_damaged_tile_is_an_error_although_cucim_gives_pixels_for_it(fake, image, tmp_path):
    path = tmp_path / "damaged.svs"
    write_aperio(path, image, compression="jpeg")
    pixels = FakeCuImage(path).images
    damage_tile(path, 5)
    fake.__init__ = lambda self, path: vars(self).update(images=pixels, thread=threading.get_ident())
    with open_slide(path, reader="cucim") as slide:
        np.testing.assert_array_equal(slide.read((0, 0, 60, 120)), pixels[0][:60, :120])
        with pytest.raises(SlideError, match=r"damaged\.svs: tile 5 at byte"):
            slide.read((60, 120, 70, 140))
