"""One content, written as every kind of file that a reader knows: each gives the same pixels."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from dataloader.slides import READERS, open_slide

MPP = 0.25
SHAPE = (300, 452)
TILED = {"photometric": "rgb", "tile": (64, 128)}
RESOLUTION = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}


def write_tiled(path, image):
    tifffile.imwrite(path, image, compression="deflate", **TILED, **RESOLUTION)


def write_striped(path, image):
    tifffile.imwrite(path, image, photometric="rgb", rowsperstrip=17, compression="lzw", **RESOLUTION)


def write_pyramid(path, image):
    """Each level the exact 2x2 or 4x4 mean, so that a level stands for what level 0 would give."""
    with tifffile.TiffWriter(path) as file:
        file.write(image, subifds=2, **TILED, **RESOLUTION)
        for step in (2, 4):
            file.write(block_mean(image, step), subfiletype=1, **TILED)


def write_ome(path, image):
    axes = {"axes": "YXS", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
    tifffile.imwrite(path, image, ome=True, metadata=axes, **TILED)


def write_aperio(path, image):
    description = f"Aperio Image Library v1\n{image.shape[1]}x{image.shape[0]} |AppMag = 40|MPP = {MPP}"
    with tifffile.TiffWriter(path) as file:
        file.write(image, description=description, metadata=None, **TILED)
        file.write(image[::4, ::4], metadata=None, description="Aperio thumbnail", photometric="rgb")
        file.write(block_mean(image, 2), metadata=None, description="Aperio 40 -> 20", **TILED)


def write_with_pillow(path, image):
    Image.fromarray(image).save(path)


def block_mean(image, step):
    height, width = image.shape[0] // step * step, image.shape[1] // step * step
    blocks = image[:height, :width].reshape(height // step, step, width // step, step, 3)
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)


WRITTEN = {
    "image.png": write_with_pillow,
    "image.bmp": write_with_pillow,
    "image.ppm": write_with_pillow,
    "tiled.tif": write_tiled,
    "striped.tiff": write_striped,
    "pyramid.tif": write_pyramid,
    "image.ome.tif": write_ome,
    "aperio.svs": write_aperio,
}
LOSSY = {".jpg", ".jpeg", ".webp"}


@pytest.fixture(scope="module")
def image():
    """Smooth enough that shrinking from a level nearly equals shrinking from level 0."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    channels = [128 + 100 * np.sin(x / 9 + phase) * np.cos(y / 13) for phase in (0, 1, 2)]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


@pytest.fixture(params=WRITTEN)
def slide(request, image, tmp_path):
    path = tmp_path / request.param
    WRITTEN[request.param](path, image)
    with open_slide(path, mpp=MPP) as slide:
        yield slide


def test_every_lossless_extension_of_the_table_is_written_here():
    assert {"." + name.rsplit(".", 1)[1] for name in WRITTEN} | LOSSY == set(READERS)


@pytest.mark.parametrize(
    "box", [(0, 0, *SHAPE), (13, 70, 210, 333), (299, 451, 300, 452), (64, 128, 128, 256)]
)
def test_every_reader_gives_the_same_level0_pixels(slide, image, box):
    assert slide.shape_level0 == SHAPE
    read = slide.read(box)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, image[box[0] : box[2], box[1] : box[3]])


@pytest.mark.parametrize("mpp", [0.1, 0.3, 0.5, 0.8, 1.0])
def test_every_reader_gives_the_same_pixels_at_a_working_resolution(slide, image, tmp_path, mpp):
    plain = tmp_path / "plain.png"
    write_with_pillow(plain, image)
    with open_slide(plain, mpp=MPP) as reference:
        height, width = reference.working_shape(mpp)
        box = (height // 5, width // 7, height, width - 3)
        wanted = reference.read(box, mpp).astype(int)
    assert np.abs(slide.read(box, mpp) - wanted).max() <= 3  # a level is rounded before it is averaged


def test_outside_the_slide_is_white(slide, image):
    read = slide.read((-5, -7, SHAPE[0] + 4, SHAPE[1] + 2))
    np.testing.assert_array_equal(read[5:-4, 7:-2], image)
    read[5:-4, 7:-2] = 255
    assert (read == 255).all()
    assert (slide.read((-50, 0, -40, 9)) == 255).all()


def test_an_empty_box_gives_an_empty_array(slide):
    assert slide.read((5, 5, 5, 9)).shape == (0, 4, 3)


@pytest.mark.parametrize("name", [name for name in WRITTEN if name.endswith(("tif", "tiff", "svs"))])
def test_the_file_states_its_resolution(name, image, tmp_path):
    WRITTEN[name](tmp_path / name, image)
    with open_slide(tmp_path / name) as slide:
        assert slide.mpp == pytest.approx(MPP)


@pytest.mark.parametrize("extension", sorted(READERS))
@pytest.mark.parametrize("content", [b"", b"this is no image, whatever its name says\n" * 40])
def test_a_file_of_another_kind_is_refused_with_its_path(extension, content, tmp_path):
    path = tmp_path / f"fake{extension}"
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"fake\..* cannot be read"):
        open_slide(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_a_truncated_file_is_refused_with_its_path_and_a_remedy(slide, share, tmp_path):
    content = slide.path.read_bytes()
    path = tmp_path / f"cut{slide.path.suffix}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(OSError, match=r"cut\..*copy it again"):
        open_slide(path)
