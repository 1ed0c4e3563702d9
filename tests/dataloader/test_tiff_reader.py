import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile

import dataloader.address as address
import dataloader.slides.tiff as tiff
from dataloader.address import Address, AddressError
from dataloader.slides import SlideError, UnsupportedError, open_slide
from dataloader.slides.source import LocalFile, RemoteFile
from dataloader.slides.tile_cache import TileCache
from tests.slide_files import SHAPE, damage_tile, smooth_image, write_leica, write_tiled

SAMPLE = Path(__file__).parents[2] / "samples" / "CMU-1-Small-Region.svs"
RNG = np.random.default_rng(5)
LAYOUTS = [{"tile": (64, 48)}, {"rowsperstrip": 17}]
WHOLE = (0, 0, 211, 307)


@pytest.fixture(scope="module")
def noise():
    return RNG.integers(0, 256, (211, 307, 3), np.uint8)


def read_whole(path):
    with open_slide(path, reader="tiff") as slide:
        return slide.read(WHOLE)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_colours_in_planes_of_their_own_are_put_together(layout, compression, noise, tmp_path):
    path = tmp_path / "planar.tif"
    planes = np.ascontiguousarray(noise.transpose(2, 0, 1))
    tifffile.imwrite(
        path, planes, photometric="rgb", planarconfig="separate", compression=compression, **layout
    )
    np.testing.assert_array_equal(read_whole(path), noise)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale", [1, 257])
def test_a_palette_gives_its_colours_in_8_or_in_16_bits(layout, scale, noise, tmp_path):
    path = tmp_path / "palette.tif"
    colours = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(path, noise[..., 0], photometric="palette", colormap=colours * scale, **layout)
    np.testing.assert_array_equal(read_whole(path), colours.T[noise[..., 0]])


@pytest.mark.parametrize("layout", [{"tile": (64, 48)}, {"rowsperstrip": 17}])
def test_a_mask_of_one_bit_is_black_and_white(layout, noise, tmp_path):
    mask = noise[..., 0] > 99
    wanted = np.repeat(np.where(mask, 255, 0)[..., None], 3, 2)
    for photometric, written in (("minisblack", mask), ("miniswhite", ~mask)):
        path = tmp_path / f"{photometric}.tif"
        tifffile.imwrite(path, written, photometric=photometric, **layout)
        np.testing.assert_array_equal(read_whole(path), wanted)


@pytest.mark.parametrize("num_bits", [2, 4])
def test_grey_of_few_bits_is_spread_over_all_of_0_to_255(num_bits, noise, tmp_path):
    grey = noise[..., 0] % 2**num_bits
    tifffile.imwrite(tmp_path / "grey.tif", grey, photometric="minisblack", bitspersample=num_bits)
    wanted = np.rint(grey * (255 / (2**num_bits - 1)))
    np.testing.assert_array_equal(read_whole(tmp_path / "grey.tif")[..., 1], wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_mask_of_small_labels_keeps_its_labels(layout, noise, tmp_path):
    labels = noise[..., 0] % 5
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack", compression="lzw", **layout)
    np.testing.assert_array_equal(read_whole(tmp_path / "labels.tif"), np.repeat(labels[..., None], 3, 2))


@pytest.mark.parametrize(
    ("compression", "tolerance"),
    [
        *[(name, 0) for name in (None, "lzw", "deflate", "zstd", "lzma", "packbits", "png")],
        *[(name, 0) for name in ("jpeg2000", "aperio_jp2000_rgb", "webp", "jpegxl", "jpegxr")],
        ("jpeg", 24),
    ],
)
def test_tiles_of_every_usual_compression_are_read(compression, tolerance, tmp_path):
    image = smooth_image()
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 48), compression=compression)
    with open_slide(tmp_path / "a.tif", reader="tiff") as slide:
        assert np.abs(slide.read((0, 0, *SHAPE)).astype(int) - image).max() <= tolerance


def test_aperios_jpeg2000_in_ycbcr_is_turned_into_rgb(tmp_path):
    image = np.ascontiguousarray(smooth_image()[:256, :256])
    ycbcr = np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]])
    packed = imagecodecs.jpeg2k_encode(ycbcr, level=0, reversible=True, codecformat="j2k", mct=False)
    tifffile.imwrite(
        tmp_path / "a.svs",
        iter([packed]),
        shape=image.shape,
        dtype=np.uint8,
        tile=(256, 256),
        photometric="ycbcr",
        subsampling=(1, 1),
        compression=33003,
        description="Aperio Image Library",
        metadata=None,
    )
    for reader in ("tiff", "openslide"):
        if reader == "openslide":
            pytest.importorskip("openslide")
        with open_slide(tmp_path / "a.svs", reader=reader) as slide:
            # rounded to YCbCr, and back
            assert np.abs(slide.read((0, 0, 256, 256)).astype(int) - image).max() <= 3


def test_the_tile_that_is_damaged_is_named_and_the_others_are_read(noise, tmp_path):
    path = tmp_path / "damaged.tif"
    tifffile.imwrite(path, noise, photometric="rgb", tile=(64, 64), compression="deflate")
    damage_tile(path, 7)  # row 1, column 2 of five
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match=r"damaged\.tif: tile 7 at byte \d+ cannot be decoded"):
            slide.read(WHOLE)
        np.testing.assert_array_equal(slide.read((0, 0, 64, 307)), noise[:64])
        np.testing.assert_array_equal(slide.read((64, 192, 211, 307)), noise[64:, 192:])


def test_tiles_that_a_file_leaves_out_are_white(noise, tmp_path):
    path = tmp_path / "sparse.tif"
    tifffile.imwrite(path, noise, photometric="rgb", tile=(64, 64), compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages[0].tags["TileByteCounts"]
        tag.overwrite([0, *tag.value[1:]])
    read = read_whole(path)
    assert (read[:64, :64] == 255).all()
    np.testing.assert_array_equal(read[64:], noise[64:])


def test_a_list_of_tiles_that_is_too_short_is_refused(noise, tmp_path):
    path = tmp_path / "short.tif"
    tifffile.imwrite(path, noise[:128, :128], photometric="rgb", tile=(64, 64))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["ImageLength"].overwrite(192)
    with pytest.raises(SlideError, match=r"short\.tif lists 4 of 6 tiles"):
        open_slide(path)


@pytest.mark.parametrize(
    ("options", "dtype", "shape", "reason"),
    [
        ({"photometric": "minisblack"}, np.float32, (32, 48), "32-bit MINISBLACK samples of type float32"),
        ({"photometric": "minisblack", "tile": (16, 16)}, np.float16, (32, 48), "samples of type float16"),
        ({"photometric": "minisblack"}, np.int8, (32, 48), "samples of type int8"),
        ({"photometric": "rgb", "tile": (16, 16)}, np.uint32, (32, 48, 3), "32-bit RGB"),
        ({"photometric": "minisblack"}, np.uint8, (3, 32, 48), "stack of 3 images"),
    ],
)
def test_tiffs_that_are_not_one_rgb_image_are_refused_with_a_remedy(options, dtype, shape, reason, tmp_path):
    tifffile.imwrite(tmp_path / "odd.tif", np.zeros(shape, dtype), **options)
    for reader in ("tiff", "auto"):  # OpenSlide reads none of them either
        with pytest.raises(UnsupportedError, match=rf"{reason}.*vips tiffsave"):
            open_slide(tmp_path / "odd.tif", reader=reader)


def test_a_scanners_tiff_is_left_to_openslide(tmp_path):
    write_leica(tmp_path / "leica.tif", smooth_image())
    with pytest.raises(
        UnsupportedError, match=r"leica\.tif is a Leica scanner's TIFF.*pip install openslide"
    ):
        open_slide(tmp_path / "leica.tif", reader="tiff")


@pytest.fixture
def decoded(monkeypatch):
    """The numbers of the tiles or strips that were decoded."""
    numbers = []
    decode = tiff.decode_segment
    monkeypatch.setattr(
        tiff,
        "decode_segment",
        lambda page, indices, data: numbers.extend(indices) or decode(page, indices, data),
    )
    return numbers


@pytest.mark.parametrize("compression", [None, "lzw", "jpeg"])
def test_only_the_strips_that_a_box_shows_are_decoded_and_each_once(compression, noise, tmp_path, decoded):
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, noise, photometric="rgb", rowsperstrip=16, compression=compression)
    expected = tifffile.imread(path)
    with open_slide(path, reader="tiff") as slide:
        assert decoded == []
        for left in range(0, 300, 60):
            np.testing.assert_array_equal(
                slide.read((40, left, 70, left + 60)), expected[40:70, left : left + 60]
            )
        assert decoded == [2, 3, 4]
        np.testing.assert_array_equal(slide.read(WHOLE), expected)  # the last strip has 3 rows
    assert sorted(decoded) == list(range(14))


def test_a_strip_that_is_damaged_is_named_and_the_others_are_read(noise, tmp_path):
    path = tmp_path / "damaged.tif"
    tifffile.imwrite(path, noise, photometric="rgb", rowsperstrip=16, compression="deflate")
    damage_tile(path, 3)
    with open_slide(path, reader="tiff") as slide:
        np.testing.assert_array_equal(slide.read((64, 0, 211, 307)), noise[64:])
        with pytest.raises(SlideError, match=r"damaged\.tif: strip 3 at byte \d+ cannot be decoded"):
            slide.read((0, 0, 49, 1))


def test_a_strip_too_large_to_be_kept_is_decoded_once_and_held(noise, tmp_path, decoded, monkeypatch):
    tifffile.imwrite(tmp_path / "strip.tif", noise, photometric="rgb", compression="lzw", rowsperstrip=211)
    monkeypatch.setattr(tiff, "MAX_STRIP_PIXELS", 211 * 307 - 1)
    monkeypatch.setattr(tiff, "STRIP_CACHE_BYTES", 0)
    with open_slide(tmp_path / "strip.tif", reader="tiff") as slide:
        for top in range(0, 200, 20):
            np.testing.assert_array_equal(slide.read((top, 7, top + 20, 99)), noise[top : top + 20, 7:99])
    assert decoded == [0]


def test_huge_strips_are_refused_before_they_fill_the_memory(noise, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "strips.tif", noise, photometric="rgb", rowsperstrip=200)
    monkeypatch.setattr(tiff, "MAX_STRIP_PIXELS", 1000)
    monkeypatch.setattr(tiff, "MAX_HELD_PIXELS", 211 * 307 - 1)
    with pytest.raises(
        UnsupportedError, match=r"strips\.tif has 211x307 pixels in strips of 200 rows.*vips tiffsave"
    ):
        open_slide(tmp_path / "strips.tif", reader="tiff")


def test_neighbouring_regions_decode_a_shared_tile_once(tmp_path, decoded):
    write_tiled(tmp_path / "a.tif", smooth_image())  # tiles of 64 x 128: 5 x 4 of them
    with open_slide(tmp_path / "a.tif") as slide:
        for left in range(0, 400, 50):
            slide.read((0, left, 64, left + 50))
    assert sorted(decoded) == [0, 1, 2, 3]


@pytest.mark.parametrize("place", ["{folder}/a.tif", "memory://shared/a.tif"])
def test_threads_that_need_the_same_strips_decode_and_fetch_each_once(place, tmp_path, decoded, monkeypatch):
    image = smooth_image()
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", rowsperstrip=8, compression="deflate")
    Address("memory://shared/a.tif").write(tmp_path / "a.tif")
    decode, fetched = tiff.decode_segment, []
    for source in (LocalFile, RemoteFile):
        monkeypatch.setattr(source, "read_ranges", _noting(source.read_ranges, fetched))

    def decode_slowly(page, indices, data):
        time.sleep(0.002)
        return decode(page, indices, data)

    monkeypatch.setattr(tiff, "decode_segment", decode_slowly)
    monkeypatch.setattr(RemoteFile, "most_bytes", 2000)
    height, width = image.shape[:2]
    boxes = [(0, left, height, min(left + 100, width)) for left in range(0, width, 100)]
    with open_slide(place.format(folder=tmp_path), reader="tiff") as slide, ThreadPoolExecutor(4) as pool:
        for box, pixels in zip(boxes, pool.map(slide.read, boxes), strict=True):
            np.testing.assert_array_equal(pixels, image[box[0] : box[2], box[1] : box[3]])
    assert sorted(decoded) == list(range(-(-height // 8)))
    assert len(fetched) == len(set(fetched)) == len(decoded)


def _noting(read, fetched):
    return lambda source, ranges: fetched.extend(ranges) or read(source, ranges)


def test_a_tile_that_one_thread_cannot_decode_fails_for_the_thread_that_waits_too(tmp_path, monkeypatch):
    write_tiled(tmp_path / "a.tif", smooth_image())
    is_decoding, is_waiting, threads = threading.Event(), threading.Event(), []
    claim = TileCache.claim

    def claim_and_say(cache, key):
        found = claim(cache, key)
        if isinstance(found, threading.Event):
            is_waiting.set()
        return found

    def fail(page, indices, data):
        threads.append(threading.get_ident())
        is_decoding.set()
        assert is_waiting.wait(5)
        raise ValueError("damaged")

    monkeypatch.setattr(TileCache, "claim", claim_and_say)
    monkeypatch.setattr(tiff, "decode_segment", fail)
    with open_slide(tmp_path / "a.tif") as slide, ThreadPoolExecutor(2) as pool:
        first = pool.submit(slide.read, (0, 0, 8, 8))
        assert is_decoding.wait(5)
        second = pool.submit(slide.read, (0, 0, 8, 8))
        for future in (first, second):
            with pytest.raises(SlideError, match="tile 0 .*damaged"):
                future.result(5)
    assert len(set(threads)) == 2


def test_a_large_box_of_a_local_file_holds_one_tile_of_it_beside_the_pixels(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((4096, 4096, 3), np.uint8), tile=(256, 256), photometric="rgb"
    )
    with open_slide(tmp_path / "a.tif") as slide:
        tracemalloc.start()
        slide._reader.read_level(0, (0, 0, 4096, 4096))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 4096 * 4096 * 3 + tiff.CACHE_BYTES + 2**22


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_network_that_fails_while_a_slide_is_opened_is_not_taken_for_damage(
    which, noise, tmp_path, monkeypatch
):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for step in (1, 2, 4):
            file.write(noise[::step, ::step], tile=(64, 64), photometric="rgb", subfiletype=int(step > 1))
    Address("memory://lost/a.tif").write(tmp_path / "a.tif")
    monkeypatch.setattr(address, "BLOCK", 2**16)
    real, count = Address.read_ranges, 0

    def read_ranges(self, ranges):
        nonlocal count
        count += 1
        if count == which:
            raise AddressError("the network is gone")
        return real(self, ranges)

    monkeypatch.setattr(Address, "read_ranges", read_ranges)
    with pytest.raises(AddressError, match="^the network is gone$"):
        open_slide("memory://lost/a.tif")
    assert count == which


def test_the_cache_holds_no_more_than_it_may_and_gives_up_the_oldest():
    cache = TileCache(num_bytes=30)
    tiles = {key: np.full(10, key, np.uint8) for key in range(4)}
    for key in (0, 1, 2):
        cache.put(key, tiles[key])
    assert cache.get(0) is tiles[0]  # 1 is now the one that was not asked for longest
    cache.put(3, tiles[3])
    assert [cache.get(key) is not None for key in range(4)] == [True, False, True, True]
    cache.put(9, np.zeros(31, np.uint8))  # larger than all of it
    assert cache.get(9) is None
    assert cache.get(0) is tiles[0]


def test_a_truncated_svs_is_refused(tmp_path):
    content = SAMPLE.read_bytes()
    for share in (0.01, 0.5, 0.8):
        (tmp_path / "cut.svs").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(SlideError, match=r"cut\.svs.*copy it again"):
            open_slide(tmp_path / "cut.svs")
