"""What only the vendors' formats have: bounds, glass that was never scanned, levels of odd proportions."""

import numpy as np
import pytest
import tifffile

from dataloader.slides import SlideError, open_slide
from tests.slide_files import MPP, SHAPE, smooth_image, write_leica

openslide = pytest.importorskip("openslide")


@pytest.fixture(scope="module")
def image():
    return smooth_image()


def test_a_slide_is_what_was_scanned_and_says_where_that_lies(image, tmp_path):
    write_leica(tmp_path / "a.scn", image, frame=(1000, 1600), places=((200, 400),))
    with openslide.OpenSlide(tmp_path / "a.scn") as plain:
        assert plain.dimensions == (1600, 1000)
    with open_slide(tmp_path / "a.scn") as slide:
        assert slide.shape_level0 == SHAPE
        assert slide.origin_level0 == (200, 400)
        assert [level.shape for level in slide.levels] == [(300, 452), (150, 226)]
        np.testing.assert_array_equal(slide.read((0, 0, *SHAPE)), image)


def test_bounds_on_an_odd_pixel_still_give_the_same_pixels_to_every_box(image, tmp_path):
    write_leica(tmp_path / "a.scn", image, places=((201, 403),))
    with open_slide(tmp_path / "a.scn") as slide:
        assert slide.origin_level0 == (201, 403)
        np.testing.assert_array_equal(slide.read((0, 0, *SHAPE)), image)
        whole = slide.read((0, 0, 150, 226), 2 * MPP)
        np.testing.assert_array_equal(slide.read((31, 77, 90, 200), 2 * MPP), whole[31:90, 77:200])


def test_glass_between_two_scanned_areas_is_white(image, tmp_path):
    write_leica(tmp_path / "a.scn", image, frame=(1000, 1600), places=((100, 200), (500, 900)))
    with open_slide(tmp_path / "a.scn") as slide:
        assert slide.origin_level0 == (100, 200)
        assert slide.shape_level0 == (500 + 300 - 100, 900 + 452 - 200)
        read = slide.read((0, 0, *slide.shape_level0))
    np.testing.assert_array_equal(read[:300, :452], image)
    np.testing.assert_array_equal(read[400:, 700:], image)
    assert (read[300:400] == 255).all()
    assert (read[:300, 452:] == 255).all()
    assert (read[400:, :700] == 255).all()


def test_a_slide_without_bounds_starts_at_its_first_pixel(image, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 64))
    with open_slide(tmp_path / "a.tif", reader="openslide") as slide:
        assert slide.origin_level0 == (0, 0)


def test_boxes_of_a_level_that_is_no_whole_downsample_are_not_blended(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2967, 2220, 3), np.uint8)
    level = np.ascontiguousarray(noise[::4, ::4][:741, :554])  # 4.0056 level-0 pixels to one of it
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        options = {"photometric": "rgb", "tile": (256, 256), "metadata": None}
        file.write(noise, **options)
        file.write(level, subfiletype=1, **options)
    with open_slide(tmp_path / "a.tif", mpp=MPP, reader="openslide") as slide:
        assert slide.levels[1].shape == (741, 554)
        off = []
        for top, left in [(0, 0), (1, 1), (100, 50), (333, 301), (600, 400)]:
            read = slide.read((top, left, top + 90, left + 80), MPP * slide.levels[1].downsample)
            off.append(np.abs(read.astype(int) - level[top : top + 90, left : left + 80]).max())
    assert off[:2] == [0, 0]
    assert max(off) <= 255 * 0.1  # where no start within reach lies on the level's grid; 0.44 px off without


@pytest.mark.parametrize(
    ("resolution", "wanted"),
    [
        ({"resolution": (1e4 / 0.3, 1e4 / 0.3), "resolutionunit": "CENTIMETER"}, 0.3),
        ({"resolution": (1e4 / 0.3, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}, 0.4),
        (
            {"resolution": (72, 72), "resolutionunit": "INCH"},
            0.25,
        ),  # a printer's: the objective of 40x counts
        ({}, 0.25),
    ],
)
def test_the_resolution_is_the_vendors_then_the_objectives(resolution, wanted, image, tmp_path):
    write_leica(tmp_path / "a.scn", image, resolution=resolution)
    with open_slide(tmp_path / "a.scn") as slide:
        assert slide.mpp == pytest.approx(wanted)


def test_the_resolution_of_a_plain_tiff_is_its_tags(image, tmp_path):
    for unit, per_unit in (("CENTIMETER", 1e4), ("INCH", 25_400)):
        options = {"resolution": (per_unit / 0.4, per_unit / 0.4), "resolutionunit": unit}
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 64), **options)
        with open_slide(tmp_path / "a.tif", reader="openslide") as slide:
            assert slide.mpp == pytest.approx(0.4)


def test_a_kind_that_openslide_does_not_know_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "a.vms").write_text("[Another Kind]\nOf=File\n")
    with pytest.raises(SlideError, match=r"a\.vms cannot be read by OpenSlide.*vips tiffsave"):
        open_slide(tmp_path / "a.vms")


def test_a_vendors_file_that_is_damaged_is_refused_with_a_remedy(image, tmp_path):
    write_leica(tmp_path / "a.scn", image)
    content = (tmp_path / "a.scn").read_bytes().replace(b"</scn>", b"<//scn>")
    (tmp_path / "a.scn").write_bytes(content)
    with pytest.raises(SlideError, match=r"a\.scn cannot be read by OpenSlide.*copy it again"):
        open_slide(tmp_path / "a.scn")
