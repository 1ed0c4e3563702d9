"""One content, as every kind of file and through every reader that reads it: each gives the same pixels."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dataloader.slides import READERS, SlideError, open_slide
from tests.slide_files import (
    MPP,
    SHAPE,
    block_mean,
    damage_tile,
    smooth_image,
    write_aperio,
    write_flat_pyramid,
    write_jpeg,
    write_leica,
    write_ome,
    write_pyramid,
    write_striped,
    write_tiled,
    write_with_pillow,
)

SAMPLE = Path(__file__).parents[2] / "samples" / "CMU-1-Small-Region.svs"
INSTALLED = {name for name in ("openslide", "cucim") if importlib.util.find_spec(name)}
TIFFS = {
    "tiled.tif": (write_tiled, ("tiff", "openslide")),
    "striped.tiff": (write_striped, ("tiff",)),  # OpenSlide wants tiles
    "pyramid.tif": (write_pyramid, ("tiff", "openslide")),
    "flat.tif": (write_flat_pyramid, ("tiff", "openslide")),
    "image.ome.tif": (write_ome, ("tiff", "openslide")),
    "aperio.svs": (write_aperio, ("tiff", "openslide")),
    "leica.tif": (write_leica, ("auto",)),
}
WRITTEN = {
    "image.png": (write_with_pillow, ("image",)),
    "image.bmp": (write_with_pillow, ("image",)),
    "image.ppm": (write_with_pillow, ("image",)),
    # every TIFF also goes through cuCIM where it is installed
    **{name: (write, (*readers, "cucim")) for name, (write, readers) in TIFFS.items() if name != "leica.tif"},
    "leica.scn": (write_leica, ("openslide",)),
    "leica.tif": TIFFS["leica.tif"],
}
ROWS = [
    (name, reader)
    for name, (_, readers) in WRITTEN.items()
    for reader in readers
    if reader != "cucim" or "cucim" in INSTALLED
]
LOSSY = {".jpg", ".jpeg", ".webp"}
SCANNERS_ONLY = {".ndpi", ".mrxs", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi"}
JPEG_TOLERANCE = 2  # grey levels between two decoders of the same data


def require(reader, name=""):
    needed = "openslide" if name.startswith("leica") else reader
    if needed in ("openslide", "cucim") and needed not in INSTALLED:
        pytest.skip(f"{needed} is not installed")


@pytest.fixture(scope="module")
def image():
    return smooth_image()


@pytest.fixture(params=ROWS, ids="-".join)
def slide(request, image, tmp_path):
    name, reader = request.param
    require(reader, name)
    WRITTEN[name][0](tmp_path / name, image)
    with open_slide(tmp_path / name, mpp=MPP, reader=reader) as slide:
        slide.reader = reader
        yield slide


def test_every_extension_of_the_table_that_can_be_made_is_read_here():
    assert {"." + name.rsplit(".", 1)[1] for name in WRITTEN} | LOSSY | SCANNERS_ONLY == set(READERS)


def test_every_reader_gives_the_same_level0_pixels(slide, image):
    assert slide.shape_level0 == SHAPE
    for box in [(0, 0, *SHAPE), (13, 70, 210, 333), (299, 451, 300, 452), (64, 128, 128, 256)]:
        read = slide.read(box)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, image[box[0] : box[2], box[1] : box[3]])


def test_every_level_gives_its_own_pixels_wherever_a_box_lies(slide, image):
    for level in slide.levels:
        wanted = block_mean(image, int(level.downsample))
        assert level.shape == wanted.shape[:2]
        height, width = level.shape
        for box in [(0, 0, height, width), (7, 13, height - 9, width - 2), (height - 5, 31, height, 40)]:
            read = slide.read(box, MPP * level.downsample)
            np.testing.assert_array_equal(read, wanted[box[0] : box[2], box[1] : box[3]])


def test_every_reader_gives_the_same_pixels_at_a_working_resolution(slide, image, tmp_path):
    write_with_pillow(tmp_path / "plain.png", image)
    with open_slide(tmp_path / "plain.png", mpp=MPP) as reference:
        for mpp in (0.1, 0.3, 0.5, 0.8, 1.0):
            height, width = reference.working_shape(mpp)
            box = (height // 5, width // 7, height, width - 3)
            difference = slide.read(box, mpp).astype(int) - reference.read(box, mpp)
            assert np.abs(difference).max() <= 3  # a level is rounded before it is averaged


def test_outside_the_slide_is_white(slide, image):
    read = slide.read((-5, -7, SHAPE[0] + 4, SHAPE[1] + 2))
    np.testing.assert_array_equal(read[5:-4, 7:-2], image)
    read[5:-4, 7:-2] = 255
    assert (read == 255).all()
    assert (slide.read((-50, 0, -40, 9)) == 255).all()


def test_an_empty_box_gives_an_empty_array(slide):
    assert slide.read((5, 5, 5, 9)).shape == (0, 4, 3)


def test_what_a_caller_writes_into_a_region_is_not_read_again(slide, image):
    for box in [(0, 0, *SHAPE), (64, 128, 128, 256)]:
        slide.read(box)[:] = 7
        np.testing.assert_array_equal(slide.read(box), image[box[0] : box[2], box[1] : box[3]])


def test_eight_threads_read_what_one_reads(slide, image):
    rng = np.random.default_rng(3)
    corners = rng.integers(-9, (SHAPE[0] - 20, SHAPE[1] - 20), (48, 2))
    boxes = [
        (y, x, y + h, x + w) for (y, x), (h, w) in zip(corners, rng.integers(1, 130, (48, 2)), strict=True)
    ]
    padded = np.pad(image, ((9, 150), (9, 150), (0, 0)), constant_values=255)
    with ThreadPoolExecutor(8) as pool:
        for (top, left, bottom, right), read in zip(boxes, pool.map(slide.read, boxes), strict=True):
            np.testing.assert_array_equal(read, padded[top + 9 : bottom + 9, left + 9 : right + 9])


@pytest.mark.parametrize(("name", "reader"), [row for row in ROWS if row[1] != "image"])
def test_the_file_states_its_resolution(name, reader, image, tmp_path):
    require(reader, name)
    if (name, reader) == ("image.ome.tif", "openslide"):
        pytest.skip("OpenSlide does not read OME's sizes")
    WRITTEN[name][0](tmp_path / name, image)
    with open_slide(tmp_path / name, reader=reader) as slide:
        assert slide.mpp == pytest.approx(MPP)


@pytest.mark.parametrize("reader", ["openslide", "cucim"])
def test_readers_agree_on_jpeg_tiles(reader, image, tmp_path):
    require(reader)
    write_jpeg(tmp_path / "jpeg.tif", image)
    for path in (tmp_path / "jpeg.tif", SAMPLE):
        with open_slide(path) as ours, open_slide(path, reader=reader) as other:
            assert ours.levels == other.levels
            assert ours.mpp == pytest.approx(other.mpp)
            height, width = ours.shape_level0
            for box in [(0, 0, 200, 210), (height - 130, width - 250, height, width)]:
                difference = ours.read(box).astype(int) - other.read(box)
                assert np.abs(difference).max() <= JPEG_TOLERANCE


@pytest.mark.parametrize("extension", sorted(READERS))
@pytest.mark.parametrize("content", [b"", b"this is no image, whatever its name says\n" * 40])
def test_a_file_of_another_kind_is_refused_in_one_line_with_its_path(extension, content, tmp_path):
    path = tmp_path / f"fake{extension}"
    path.write_bytes(content)
    for reader in {"auto", *READERS[extension], "cucim"} & {"auto", "image", "tiff", *INSTALLED}:
        with pytest.raises(SlideError, match=r"fake\.\S+ cannot be read") as refusal:
            open_slide(path, reader=reader)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("reader", ["auto", "image", "tiff", "openslide", "cucim"])
def test_a_folder_is_refused_whatever_the_reader(reader, tmp_path):
    with pytest.raises(SlideError, match="is a folder, not a slide"):
        open_slide(tmp_path, reader=reader)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_file_is_refused_with_its_path_and_a_remedy(slide, share):
    content = slide.path.read_bytes()
    path = slide.path.with_name(f"cut{slide.path.suffix}")
    path.write_bytes(content[: int(len(content) * share)])
    if (slide.path.name, slide.reader, share) == ("pyramid.tif", "openslide", 0.97):
        pytest.skip("OpenSlide does not look for the levels that were cut off")
    with (
        pytest.raises(SlideError, match=r"cut\..*copy it again"),
        open_slide(path, reader=slide.reader) as cut,
    ):
        for level in cut.levels:  # OpenSlide opens some, and finds out when it reads
            cut.read((0, 0, *level.shape), MPP * level.downsample)


@pytest.mark.parametrize("reader", ["tiff", "openslide", "cucim"])
@pytest.mark.parametrize("compression", ["jpeg", "aperio_jp2000_rgb"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_truncated_aperio_slide_is_refused(reader, compression, share, image, tmp_path):
    require(reader)
    write_aperio(tmp_path / "whole.svs", image, compression=compression)
    content = (tmp_path / "whole.svs").read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SlideError, match=r"cut\.svs.*copy it again"), open_slide(path, reader=reader) as cut:
        for level in cut.levels:
            cut.read((0, 0, *level.shape), MPP * level.downsample)


@pytest.mark.parametrize("reader", ["tiff", "openslide", "cucim"])
@pytest.mark.parametrize("compression", ["jpeg", "aperio_jp2000_rgb", "deflate", "lzw"])
def test_a_damaged_tile_is_an_error_and_the_tiles_before_it_are_read(reader, compression, image, tmp_path):
    require(reader)
    path = tmp_path / "damaged.svs"
    write_aperio(path, image, compression=compression)
    damage_tile(path, 5)  # row 1, column 1
    with open_slide(path, reader=reader) as slide:
        assert np.abs(slide.read((0, 0, 64, 452)).astype(int) - image[:64]).max() <= 60  # the JPEG's own loss
        with pytest.raises(SlideError, match=r"damaged\.svs: .*copy it again") as refusal:
            slide.read((60, 120, 70, 140))
    assert "\n" not in str(refusal.value)
    assert reader == "openslide" or "tile 5 at byte" in str(refusal.value)


def test_reading_a_closed_slide_is_an_error(slide):
    if slide.reader == "image":
        pytest.skip("held in memory")
    slide.close()
    with pytest.raises(SlideError, match=slide.path.name):
        slide.read((0, 0, 9, 9))
