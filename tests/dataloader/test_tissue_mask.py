from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from dataloader import tissue_mask
from dataloader.slides import SlideError
from dataloader.tissue_mask import find_mask, read_mask

SHAPE = (6000, 4000)  # of the slide at level 0


@pytest.fixture
def marked():
    mask = np.zeros((60, 40), bool)
    mask[10:30, 5:20] = True
    mask[59, 39] = True
    return mask


def write_png(path, mask, mode):
    image = Image.fromarray(mask.astype(np.uint8) * (255 if mode == "255" else 1))
    if mode == "bits":
        image = Image.fromarray(mask)
    elif mode == "16 bits":
        image = Image.fromarray(mask.astype(np.uint16))
    elif mode == "palette":
        image = image.convert("P")
        image.putpalette([0, 0, 0, 0, 200, 0])
    elif mode == "colour":
        image = Image.fromarray(mask[..., None] * np.array([0, 1, 0], np.uint8))
    elif mode == "transparent":
        image = Image.fromarray(
            np.where(mask[..., None], [9, 0, 0, 255], [255, 255, 255, 0]).astype(np.uint8)
        )
    image.save(path)


@pytest.mark.parametrize("mode", ["1", "255", "bits", "16 bits", "palette", "colour", "transparent"])
def test_every_kind_of_png_marks_what_is_above_0(tmp_path, marked, mode):
    write_png(tmp_path / "mask.png", marked, mode)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", SHAPE), marked)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (lambda mask: mask.astype(np.uint8), {}),
        (lambda mask: mask, {"photometric": "minisblack"}),
        (lambda mask: ~mask, {"photometric": "miniswhite"}),
        (lambda mask: mask.astype(np.uint16), {}),
        (lambda mask: mask.astype(np.int32) * 70_000, {}),
        (lambda mask: mask.astype(np.float32) * 0.2, {}),
        (lambda mask: mask[..., None] * np.array([0, 3, 0], np.uint8), {"photometric": "rgb"}),
        (lambda mask: mask * np.array([0, 3, 0], np.uint8)[:, None, None], {"photometric": "rgb"}),
    ],
)
def test_every_kind_of_tiff_marks_what_is_above_0(tmp_path, marked, pixels, options):
    tifffile.imwrite(tmp_path / "mask.tif", pixels(marked), **options)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif", SHAPE), marked)


def write_pyramid(path, side, value):
    """A mask with its upper left quarter marked, four levels; the coarse levels have a value of their own."""
    with tifffile.TiffWriter(path) as file:
        for level in range(4):
            pixels = np.zeros((side >> level, side >> level), np.uint8)
            pixels[: side >> level + 1, : side >> level + 1] = value
            options = {"subifds": 3} if level == 0 else {"subfiletype": 1}
            file.write(pixels, tile=(256, 256), photometric="minisblack", compression="deflate", **options)


def test_of_a_pyramid_a_level_of_low_power_is_read(tmp_path):
    write_pyramid(tmp_path / "mask.tif", 4096, 255)
    mask = read_mask(tmp_path / "mask.tif", (9000, 9000))
    assert mask.shape == (1024, 1024)
    assert mask[:512, :512].all() and mask.sum() == 512**2


def test_a_tiff_too_large_to_hold_is_read_as_a_slide(tmp_path, monkeypatch):
    monkeypatch.setattr(tissue_mask, "WHOLE_LIMIT", 100_000)
    monkeypatch.setattr(tissue_mask, "PIXEL_LIMIT", 250_000)
    write_pyramid(tmp_path / "mask.tif", 4096, 255)
    mask = read_mask(tmp_path / "mask.tif", (9000, 9000))
    assert mask.shape == (500, 500)
    assert mask[:250, :250].all() and mask.sum() == 250**2


def test_a_mask_larger_than_the_limit_is_shrunk_and_keeps_single_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(tissue_mask, "PIXEL_LIMIT", 60 * 40)
    large = np.zeros((307, 203), np.uint8)
    large[150, 101] = large[306, 202] = large[0, 0] = 1
    cv2.imwrite(str(tmp_path / "mask.png"), large)
    mask = read_mask(tmp_path / "mask.png", SHAPE)
    assert mask.size <= 60 * 40
    rows, columns = np.nonzero(mask)
    centres = (rows + 0.5) * 307 / mask.shape[0], (columns + 0.5) * 203 / mask.shape[1]
    np.testing.assert_allclose(centres[0], [0, 150, 306], atol=307 / mask.shape[0])
    np.testing.assert_allclose(centres[1], [0, 101, 202], atol=203 / mask.shape[1])


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((60, 40), True), ((7, 5), True), ((60, 41), True), ((60, 43), False), ((40, 60), False)],
)
def test_a_mask_of_another_aspect_is_refused(tmp_path, shape, fits):
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), np.ones(shape, np.uint8))
    if fits:
        assert read_mask(path, SHAPE).shape == shape
    else:
        with pytest.raises(
            ValueError, match=f"{shape[0]}x{shape[1]} px does not fit the slide of 6000x4000.*5 %"
        ):
            read_mask(path, SHAPE)


@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_what_is_no_image_is_said_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=r"mask .* cannot be read.*write it as PNG") as caught:
        read_mask(tmp_path / name, SHAPE)
    assert "\n" not in str(caught.value)


def test_a_folder_holds_the_masks_of_its_slides(tmp_path):
    for name in ("a.png", "b.c.tif"):
        (tmp_path / name).touch()
    assert find_mask(tmp_path, "a") == tmp_path / "a.png"
    assert find_mask(tmp_path, "b.c") == tmp_path / "b.c.tif"
    assert find_mask(tmp_path / "a.png", "another") == tmp_path / "a.png"
    with pytest.raises(FileNotFoundError, match=r"no mask for slide d; add d\.png"):
        find_mask(tmp_path, "d")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_mask(tmp_path / "nowhere", "a")
