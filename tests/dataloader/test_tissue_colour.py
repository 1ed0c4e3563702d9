"""Tissue, glass, dirt and ink, drawn and real, at the scale of an overview (8 µm a pixel)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from dataloader.overview import overview_mpp, read_overview
from dataloader.slides import open_slide
from dataloader.tissue_colour import find_tissue
from tests.conftest import ROOT

SIDE = 400
GLASS = (243, 243, 243)
EOSIN = (225, 150, 190)
HAEMATOXYLIN = (95, 70, 150)
NOISE = np.random.default_rng(3)


def glass(colour=GLASS, sigma=2.0):
    picture = np.array(colour) + NOISE.normal(0, sigma, (SIDE, SIDE, 3))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def disk(centre=(200, 200), radius=100):
    y, x = np.ogrid[:SIDE, :SIDE]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def he(colour=EOSIN, dark=HAEMATOXYLIN, share=0.2):
    """Tissue from edge to edge: a colour, clumps of a darker one, and the noise of a camera."""
    clumps = cv2.GaussianBlur(NOISE.normal(size=(SIDE, SIDE)), (0, 0), 1.5)
    is_dark = clumps > np.quantile(clumps, 1 - share)
    picture = np.where(is_dark[..., None], dark, colour) + NOISE.normal(0, 5, (SIDE, SIDE, 3))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def put(picture, mask, colour):
    """Paint through a mask, its edge mixed with what is below, as a lens does."""
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)[..., None]
    return np.clip(np.rint(picture * (1 - alpha) + np.asarray(colour) * alpha), 0, 255).astype(np.uint8)


def jpeg(picture, quality=60):
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def shade(picture, least=0.75):
    """Darken towards the corners, as a badly adjusted condenser does."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    return np.rint(picture * (1 - (1 - least) * (y**2 + x**2)[..., None] / 2)).astype(np.uint8)


@pytest.mark.parametrize("mpp", [None, 2.0, 30.0])
@pytest.mark.parametrize("grey", [0, 40, 128, 255])
def test_a_picture_of_one_grey_has_no_tissue(grey, mpp):
    assert not find_tissue(np.full((SIDE, SIDE + 7, 3), grey, np.uint8), mpp).any()


def test_an_empty_picture_and_a_single_pixel_work():
    assert find_tissue(np.zeros((0, 5, 3), np.uint8)).shape == (0, 5)
    assert not find_tissue(np.full((1, 1, 3), 255, np.uint8)).any()
    assert find_tissue(np.full((1, 1, 3), EOSIN, np.uint8)).all()


@pytest.mark.parametrize(
    ("colour", "dark", "share"),
    [
        (EOSIN, HAEMATOXYLIN, 0.02),
        (EOSIN, HAEMATOXYLIN, 0.5),
        (HAEMATOXYLIN, (60, 40, 110), 0.5),
        ((238, 215, 230), HAEMATOXYLIN, 0.1),
        ((238, 215, 230), (236, 212, 228), 0.5),
        ((110, 115, 185), (60, 50, 120), 0.3),
        ((205, 95, 130), (190, 70, 95), 0.3),
    ],
)
def test_tissue_from_edge_to_edge_is_all_kept(colour, dark, share):
    assert find_tissue(he(colour, dark, share)).all()


@pytest.mark.parametrize(
    "colour", [(248, 232, 242), (245, 225, 238), EOSIN, HAEMATOXYLIN, (110, 115, 185), (60, 45, 100)]
)
@pytest.mark.parametrize("background", [GLASS, (235, 230, 228), (240, 240, 247)])
def test_tissue_is_found_to_within_its_margin(colour, background):
    truth = disk()
    seen = np.array(colour) * background / GLASS  # the lamp's cast lies on both
    found = find_tissue(jpeg(put(glass(background), truth, seen)), 8.0)
    assert found[truth].mean() > 0.98
    assert not found[~disk(radius=100 + 8)].any()


@pytest.mark.parametrize(
    "colour", [GLASS, (235, 230, 228), (228, 231, 236), (238, 230, 236), (200, 196, 195)]
)
def test_glass_with_a_cast_noise_and_shadow_is_no_tissue(colour):
    assert not find_tissue(jpeg(shade(glass(colour, sigma=4)), quality=40)).any()


def test_a_shadow_does_not_hide_tissue():
    truth = disk((330, 330), 50)
    found = find_tissue(shade(put(glass(), truth, EOSIN), least=0.6))
    assert found[truth].all()
    assert not found[~disk((330, 330), 58)].any()


INKS = {
    "blue": (30, 60, 180),
    "light blue": (120, 170, 225),
    "green": (40, 140, 80),
    "pale green": (150, 210, 165),
    "cyan": (40, 150, 190),
    "red": (205, 25, 40),
    "yellow": (235, 205, 60),
    "black": (35, 33, 38),
    "grey": (110, 110, 112),
}


@pytest.mark.parametrize("ink", INKS)
def test_ink_is_no_tissue_whether_it_rings_tissue_or_lies_on_it(ink):
    stroke = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(stroke, (200, 200), 160, 1, 12)
    cv2.line(stroke, (40, 20), (360, 20), 1, 20)
    tissue = disk(radius=90)
    across = np.zeros((SIDE, SIDE), np.uint8)
    cv2.rectangle(across, (100, 180), (300, 220), 1, -1)
    picture = put(put(put(glass(), tissue, EOSIN), stroke > 0, INKS[ink]), across > 0, INKS[ink])
    found = find_tissue(jpeg(picture, 80), 8.0)
    assert not found[stroke > 0].any()
    far = ~disk(radius=90 + 8)
    assert not found[far].any()
    off_ink = tissue & (cv2.dilate(across, np.ones((13, 13), np.uint8)) == 0)
    assert found[off_ink].all()
    if ink != "grey":  # seen through, it looks like a gap in the tissue
        assert not found[across > 0].any()


@pytest.mark.parametrize("width", [1, 10, 60])
def test_black_around_the_scan_is_no_tissue(width):
    picture = he()
    frame = np.ones((SIDE, SIDE), bool)
    frame[width:-width, width:-width] = False
    picture[frame] = (4, 2, 3)
    found = find_tissue(picture)
    assert found[~frame].mean() > 0.95
    if width > 1:
        assert not found[frame].any()


def test_black_next_to_glass_makes_no_tissue_at_its_edge():
    picture = glass()
    picture[:, 300:] = (3, 3, 3)
    picture[100:200, :80] = (20, 22, 21)
    assert not find_tissue(jpeg(picture)).any()


def test_dirt_smaller_than_128_um_is_left_out_and_a_piece_larger_is_kept():
    picture = glass()
    for y in range(20, 380, 60):
        picture = put(picture, disk((y, 60), 3), (150, 100, 140))
    picture = put(picture, disk((200, 260), 14), EOSIN)
    found = find_tissue(picture, 8.0)
    assert not found[:, :120].any()
    assert found[disk((200, 260), 14)].all()


def test_small_holes_are_filled_and_large_ones_stay():
    picture = he()
    picture[disk((100, 100), 11)] = GLASS
    picture[disk((260, 260), 60)] = GLASS
    found = find_tissue(picture, 8.0)
    assert found[:180, :180].all()
    assert not found[disk((260, 260), 50)].any()


@pytest.mark.parametrize("mpp", [4.0, 8.0, 16.0])
def test_sizes_are_microns_whatever_the_pixel(mpp):
    """A speck of 90 µm goes, a piece of 200 µm stays, and the margin is 32 µm at any scale."""
    y, x = np.ogrid[:SIDE, :SIDE]
    speck = (abs(y - 100) * mpp <= 45) & (abs(x - 100) * mpp <= 45)
    piece = (abs(y - 250) * mpp <= 100) & (abs(x - 250) * mpp <= 100)
    picture = np.where((speck | piece)[..., None], EOSIN, GLASS).astype(np.uint8)
    found = find_tissue(picture, mpp)
    assert not found[:170].any()
    height = found.any(1).sum() * mpp
    assert 200 + 2 * 32 - 2 * mpp <= height <= 200 + 2 * 32 + 6 * mpp


def test_the_real_slide_shows_tissue_and_glass():
    with open_slide(ROOT / "samples" / "CMU-1-Small-Region.svs") as slide:
        overview = read_overview(slide)
        found = find_tissue(overview, overview_mpp(slide, overview))
    assert found[850:, 300:680].all()  # the body of the section
    # glass
    assert not found[:350, :250].any() and not found[700:, :130].any() and not found[700:, 800:].any()
    assert 0.3 < found.mean() < 0.6


def test_real_tiles_full_of_tissue_are_all_kept(consep_dir):
    shares = {}
    for path in sorted((consep_dir / "Test" / "Images").glob("*.png"))[::3]:
        shares[path.stem] = find_tissue(np.asarray(Image.open(path).convert("RGB")), 0.25).mean()
    assert len(shares) == 5
    assert min(shares.values()) > 0.95, shares


@pytest.mark.parametrize(
    ("tile", "ink", "tissue"),
    [
        ("train_12", np.s_[120:150, 250:500], np.s_[500:]),
        ("train_2", np.s_[20:150, 400:550], np.s_[:, 650:]),
    ],
)
def test_real_ink_is_left_out(consep_dir, tile, ink, tissue):
    picture = np.asarray(Image.open(consep_dir / "Train" / "Images" / f"{tile}.png").convert("RGB"))
    found = find_tissue(picture, 0.25)
    assert found[ink].mean() < 0.1
    assert found[tissue].all()
