import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from dataloader.slides import READERS, Level, SlideError, open_slide
from dataloader.slides.slide import Slide

SAMPLE = Path(__file__).parents[2] / "samples" / "CMU-1-Small-Region.svs"
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def sample():
    with open_slide(SAMPLE) as slide:
        yield slide


@pytest.fixture(scope="module")
def noise():
    return RNG.integers(0, 256, (211, 307, 3), np.uint8)


@pytest.fixture
def noise_slide(noise, tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    return open_slide(path, mpp=0.25)


@pytest.fixture(scope="module")
def pyramid(noise, tmp_path_factory):
    path = tmp_path_factory.mktemp("pyramid") / "odd.tif"
    with tifffile.TiffWriter(path) as file:
        tiles = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
        file.write(noise, subifds=2, **tiles)
        file.write(noise[:210, :306].reshape(105, 2, 153, 2, 3).mean((1, 3)).astype(np.uint8), **tiles)
        file.write(noise[:208, :304].reshape(52, 4, 76, 4, 3).mean((1, 3)).astype(np.uint8), **tiles)
    return open_slide(path, mpp=0.25)


def test_the_sample_slide_says_what_it_is(sample):
    assert sample.shape_level0 == (2967, 2220)
    assert sample.mpp == 0.499
    assert sample.levels == (Level((2967, 2220), 1.0),)


def test_working_sides_are_level0_sides_over_the_scale_rounded(sample):
    assert sample.working_shape(None) == (2967, 2220)
    assert sample.working_shape(0.25) == (round(2967 * 0.499 / 0.25), round(2220 * 0.499 / 0.25))
    assert sample.working_shape(1e9) == (1, 1)


@pytest.mark.parametrize("mpp", [0.1, 0.25, 0.2503, 0.3, 0.5, 0.61, 1.0, 2.3])
def test_reading_in_pieces_equals_reading_whole(noise_slide, pyramid, mpp):
    for slide in (noise_slide, pyramid):
        height, width = slide.working_shape(mpp)
        whole = slide.read((0, 0, height, width), mpp)
        step = max(1, height // 3)
        pieces = [
            np.concatenate(
                [
                    slide.read((y, x, min(y + step, height), min(x + step, width)), mpp)
                    for x in range(0, width, step)
                ],
                1,
            )
            for y in range(0, height, step)
        ]
        assert np.abs(np.concatenate(pieces).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("mpp", [0.26, 0.375, 0.5, 0.9])
def test_shrinking_gives_the_mean_over_each_working_pixels_area(noise, noise_slide, mpp):
    scale = mpp / 0.25

    def overlap(i, size):
        """The share of each level-0 pixel in working pixel i, slowly."""
        low, high = i * scale, min((i + 1) * scale, size)
        return np.array([max(0.0, min(high, j + 1) - max(low, j)) for j in range(size)])

    height, width = noise_slide.working_shape(mpp)
    read = noise_slide.read((0, 0, height, width), mpp)
    for row, column in [(0, 0), (5, 11), (height // 2, width // 3), (height - 1, width - 1)]:
        weights = np.outer(overlap(row, 211), overlap(column, 307))
        mean = (noise * weights[..., None]).sum((0, 1)) / weights.sum()
        np.testing.assert_allclose(read[row, column], mean, atol=0.51)


def test_enlarging_keeps_a_straight_ramp_straight(tmp_path):
    ramp = np.repeat(np.arange(0, 250, 5, dtype=np.uint8)[None, :, None], 3, 2).repeat(20, 0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    slide = open_slide(tmp_path / "ramp.png", mpp=0.5)
    read = slide.read((0, 0, *slide.working_shape(0.2)), 0.2)
    centres = (np.arange(read.shape[1]) + 0.5) * 0.4 - 0.5
    inner = (centres > 1) & (centres < 48)
    np.testing.assert_allclose(read[7, inner, 1], 5 * centres[inner], atol=0.51)


def test_a_region_is_read_from_the_coarsest_level_that_is_fine_enough():
    class Recorder:
        path = Path("memory")
        mpp = 0.25
        levels = tuple(Level.of((1000 // step, 1000 // step), (1000, 1000)) for step in (1, 4, 16))
        read_levels: list[int] = []

        def read_level(self, level, box):
            self.read_levels.append(level)
            return np.zeros((box[2] - box[0], box[3] - box[1], 3), np.uint8)

        def close(self):
            pass

    slide = Slide(Recorder())
    for mpp in (0.1, 0.25, 0.9, 0.995, 1.0, 3.9, 4.0, 50.0):
        slide.read((0, 0, 5, 5), mpp)
    assert Recorder.read_levels == [0, 0, 0, 1, 1, 1, 2, 2]


def test_a_trimmed_level_still_stands_for_a_whole_downsample():
    assert Level.of((554, 741), (2220, 2967)).downsample == 4
    assert Level.of((600, 800), (1500, 2000)).downsample == 2.5


def test_a_jpeg_pyramid_from_the_sample_is_read_at_each_level(sample, tmp_path):
    image = sample.read((0, 0, 1024, 1024))
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as file:
        options = {
            "tile": (256, 256),
            "photometric": "rgb",  # stored as YCbCr
            "compression": "jpeg",
            "compressionargs": {"level": 90},
            "subsampling": (2, 2),
        }
        file.write(image, subifds=1, **options)
        file.write(image.reshape(512, 2, 512, 2, 3).mean((1, 3)).astype(np.uint8), subfiletype=1, **options)
    with open_slide(path, mpp=0.5) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2]
        assert np.abs(slide.read((0, 0, 1024, 1024)).astype(int) - image).mean() < 4
        wanted = image.reshape(512, 2, 512, 2, 3).mean((1, 3))
        assert np.abs(slide.read((0, 0, 512, 512), 1.0) - wanted).mean() < 4


@pytest.mark.parametrize(
    ("description", "tags", "wanted"),
    [
        ("Aperio |AppMag = 40|MPP = 0.2325", {}, 0.2325),
        ("Aperio |AppMag = 40|MPP = 0", {}, 0.25),
        ("Aperio |AppMag = 20", {}, 0.5),
        ("scan", {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5),
        ("scan", {"resolution": (50800, 50800), "resolutionunit": "INCH"}, 0.5),
        ("scan", {"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ("scan", {"resolution": (40000, 40000), "resolutionunit": "NONE"}, None),
        ("Aperio |MPP = 0.3", {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.3),
    ],
)
def test_the_resolution_is_taken_from_where_scanners_write_it(description, tags, wanted, tmp_path):
    path = tmp_path / "slide.tif"
    image = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(path, image, photometric="rgb", description=description, metadata=None, **tags)
    assert open_slide(path).mpp == (None if wanted is None else pytest.approx(wanted))


def test_ome_sizes_are_converted_to_microns(tmp_path):
    path = tmp_path / "slide.ome.tif"
    axes = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm"}
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", metadata=axes)
    assert open_slide(path).mpp == pytest.approx(0.25)


def test_a_stated_resolution_replaces_the_files():
    assert open_slide(SAMPLE, mpp=0.25).mpp == 0.25


def test_an_unknown_resolution_is_asked_for(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(
        SlideError, match=r"a\.png .* run_infer\.py mpp=.*open_slide\(path, mpp=0\.25\)"
    ) as refusal:
        open_slide(tmp_path / "a.png").read((0, 0, 9, 9), 0.5)
    assert "\n" not in str(refusal.value)


def test_16_bit_grey_is_scaled_to_8(tmp_path):
    grey = np.array([[0, 128, 257 * 9, 257 * 200, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", grey)
    for name in ("a.png", "a.tif"):
        read = open_slide(tmp_path / name).read((0, 0, 1, 5))
        assert read[0].tolist() == [[v] * 3 for v in (0, 0, 9, 200, 255)]


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 255, 100, 51]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("a.png", "a.tif"):  # 0.2 of the colour and 0.8 of white
        read = open_slide(tmp_path / name).read((0, 0, 1, 3))
        assert read[0].tolist() == [[10, 20, 30], [255, 255, 255], [204, 255, 224]]


def test_grey_palettes_and_black_and_white_become_rgb(tmp_path):
    grey = np.array([[0, 77, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    tifffile.imwrite(tmp_path / "grey.tif", grey, photometric="minisblack")
    tifffile.imwrite(tmp_path / "inverted.tif", 255 - grey, photometric="miniswhite")
    for name in ("grey.png", "grey.tif", "inverted.tif"):
        assert open_slide(tmp_path / name).read((0, 0, 1, 3))[0, :, 1].tolist() == [0, 77, 255]
    colours = np.array([[[200, 30, 90], [0, 0, 0]]], np.uint8)
    Image.fromarray(colours).quantize(4).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(open_slide(tmp_path / "palette.png").read((0, 0, 1, 2)), colours)
    Image.fromarray(grey > 99).save(tmp_path / "bits.png")
    assert open_slide(tmp_path / "bits.png").read((0, 0, 1, 3))[0, :, 2].tolist() == [0, 0, 255]


@pytest.mark.parametrize("size", [(1, 1), (30000, 200)])
@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_sizes_that_are_extreme_work(size, extension, tmp_path):
    image = np.full((*size, 3), 7, np.uint8)
    path = tmp_path / f"a{extension}"
    if extension == ".png":
        Image.fromarray(image).save(path, compress_level=1)
    else:
        tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), compression="deflate")
    with open_slide(path, mpp=0.25) as slide:
        assert slide.shape_level0 == size
        assert (slide.read((0, 0, *size)) == 7).all()
        assert (slide.read((0, 0, *slide.working_shape(0.7)), 0.7) == 7).all()
        assert (slide.read((0, 0, *slide.working_shape(0.2)), 0.2) == 7).all()


def test_images_beyond_pillows_limit_open_and_the_limit_stays(tmp_path, monkeypatch):
    Image.new("RGB", (300, 300)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert open_slide(tmp_path / "large.png").shape_level0 == (300, 300)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("share", np.linspace(0.01, 0.99, 25))
@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".webp"])
def test_no_truncated_image_gives_half_an_image(share, extension, noise, tmp_path):
    whole = tmp_path / f"whole{extension}"
    Image.fromarray(noise).save(whole)
    content = whole.read_bytes()
    path = tmp_path / f"cut{extension}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SlideError, match=r"cut\..*copy it again"):
        open_slide(path)


def test_what_is_no_slide_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.svs"):
        open_slide(tmp_path / "nowhere.svs")
    with pytest.raises(SlideError, match="is a folder"):
        open_slide(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(SlideError, match=r"'\.txt'.*" + ", ".join(READERS).replace(".", r"\.")):
        open_slide(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="mpp=0 "):
        open_slide(SAMPLE, mpp=0)
    with pytest.raises(ValueError, match="ends before it starts"):
        open_slide(SAMPLE).read((5, 0, 4, 9))


@pytest.mark.parametrize(
    ("reader", "extension"), [("tiff", ".dat"), ("image", ".dat"), ("image", ".tif"), ("openslide", ".dat")]
)
def test_a_reader_that_is_named_reads_any_extension(reader, extension, noise, tmp_path):
    if reader == "openslide":
        pytest.importorskip("openslide")
    path = tmp_path / f"slide{extension}"
    tifffile.imwrite(path, noise, photometric="rgb", tile=(64, 64))
    np.testing.assert_array_equal(open_slide(path, reader=reader).read((0, 0, 211, 307)), noise)


def test_an_unknown_reader_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"reader='vips' .*auto, image, tiff, openslide, cucim"):
        open_slide(SAMPLE, reader="vips")


def test_a_reader_that_does_not_fit_says_why(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match=r"a\.png cannot be read as a TIFF"):
        open_slide(tmp_path / "a.png", reader="tiff")


@pytest.mark.parametrize(("module", "extension"), [("openslide", ".ndpi"), ("cucim", ".tif")])
def test_a_library_that_is_missing_is_named_with_its_remedy(module, extension, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"dataloader.slides.{module}", raising=False)
    path = tmp_path / f"a{extension}"
    path.write_bytes(b"anything")
    with pytest.raises(SlideError, match=rf"a\{extension} needs .*pip install {module}-") as refusal:
        open_slide(path, reader="auto" if module == "openslide" else module)
    assert "\n" not in str(refusal.value)
