"""Outputs that show a result: pictures, pyramids, thumbnails, and label maps for other programs."""

import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from scipy.io import loadmat

from dataloader.slides import open_slide
from models.nuclei import Nuclei, NucleusType
from run_utils.outputs import (
    WRITERS,
    PackedLabels,
    Part,
    SlideResult,
    default_colours,
    label,
    mask,
    overlay,
    picture,
    thumb,
)
from run_utils.outputs.picture import REACH_PX
from run_utils.outputs.pyramid import TILE, completed_rows, level_shapes, row_boxes
from tests.results import ellipses, make_result

SMOOTHED = 30  # grey levels that smoothing takes from a line's colour
JPEG = 12  # grey levels that JPEG may change where nothing is drawn
TYPES = (NucleusType("none", (1, 2, 3)), NucleusType("a", (255, 0, 0)), NucleusType("b", (0, 0, 255)))


@pytest.fixture
def result():
    """Two rectangles of rows 2-5, columns 3-9 (type 1) and rows 10-19, columns 20-24 (type 2)."""
    label_map = np.zeros((40, 60), np.int32)
    label_map[2:6, 3:10] = 1
    label_map[10:20, 20:25] = 2
    image = np.full((40, 60, 3), 200, np.uint8)
    return make_result(label_map, name="tile", types=TYPES, mpp=0.5, level0_scale=2.0, image=image)


def without_types(result):
    def parts():
        for part in result.parts():
            yield replace(
                part, nuclei=replace(part.nuclei, types=None, type_shares=None, type_probabilities=None)
            )

    return replace(result, parts=parts, types=None)


def smooth_image(shape):
    """Slow waves of colour, which JPEG keeps."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(y / 60), np.sin(x / 50), np.sin((x + y) / 70)]
    return (170 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


def scattered(shape, num_nuclei=60, seed=5):
    """A label map of discs, among them one on the corner of four tiles and two across a border of two."""
    label_map = np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    rng = np.random.default_rng(seed)
    centres = [(TILE, TILE), (TILE - 2, 100), (300, TILE + 1), *(rng.random((num_nuclei, 2)) * shape)]
    for index, (row, column) in enumerate(centres):
        disc = (y - row) ** 2 + (x - column) ** 2 <= rng.integers(5, 18) ** 2
        if not label_map[disc].any():
            label_map[disc] = index + 1
    return np.unique(label_map, return_inverse=True)[1].reshape(shape).astype(np.int32)


@pytest.fixture(scope="module")
def large():
    """2 x 3 tiles at level 0, regions of 256 px."""
    label_map = scattered((1000, 1301))
    return make_result(label_map, region_size=256, image=smooth_image(label_map.shape))


def draw_whole(result, **options):
    canvas = np.array(result.read((0, 0, *result.shape)))
    picture.draw_nuclei(canvas, result.whole_nuclei(), types=result.types, mpp=result.mpp, **options)
    return canvas


def join_tiles(result, **options):
    """The overlay's tiles side by side, as they are before JPEG."""
    tiles = overlay.draw_tiles(result, **options)
    rows = range(-(-result.shape[0] // TILE))
    joined = [np.hstack([next(tiles)() for _ in row_boxes(result.shape, row)]) for row in rows]
    assert next(tiles, None) is None
    return np.vstack(joined)


# mat and npy


def test_mat_has_the_names_and_shapes_of_the_reference(result, tmp_path):
    WRITERS["mat"].write(result, tmp_path / "file")
    content = loadmat(tmp_path / "file", appendmat=False)
    assert content["inst_map"].dtype == np.int32
    np.testing.assert_array_equal(content["inst_map"], result.whole_label_map())
    assert content["inst_uid"].tolist() == [[1], [2]]
    assert content["inst_type"].tolist() == [[1], [2]]
    assert content["inst_centroid"].tolist() == [[6.0, 3.5], [22.0, 14.5]]


def test_mat_has_no_types_where_the_network_has_none(result, tmp_path):
    WRITERS["mat"].write(without_types(result), tmp_path / "file")
    assert "inst_type" not in loadmat(tmp_path / "file", appendmat=False)


def test_npy_is_the_label_map_as_numpy_loads_it(result, tmp_path):
    WRITERS["npy"].write(result, tmp_path / "file.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "file.npy"), result.whole_label_map())


# picture


def test_a_picture_keeps_the_image_and_puts_the_legend_below(result, tmp_path):
    picture.write(result, tmp_path / "with.png")
    picture.write(result, tmp_path / "without.png", legend=False)
    with_legend = picture.read(tmp_path / "with.png").image
    without = picture.read(tmp_path / "without.png").image
    assert without.shape == (40, 60, 3)
    np.testing.assert_array_equal(with_legend[:40, :60], without)
    assert with_legend.shape[0] > 40
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (with_legend[40:] == colour).all(-1).any()


def test_each_outline_has_its_types_colour(result):
    drawn = draw_whole(result)
    np.testing.assert_allclose(drawn[2, 6], [255, 0, 0], atol=SMOOTHED)
    np.testing.assert_allclose(drawn[15, 20], [0, 0, 255], atol=SMOOTHED)
    assert (drawn[30:] == 200).all()
    assert (result.read((0, 0, 40, 60)) == 200).all()


def test_centroids_are_marked_when_asked(result):
    assert draw_whole(result, dots=True)[14, 22].tolist() == [255, 0, 0]
    assert draw_whole(result)[14, 22].tolist() == [200, 200, 200]


def test_nuclei_without_types_have_one_colour(result):
    drawn = draw_whole(replace(without_types(result), mpp=1.0))
    for pixel in (drawn[2, 6], drawn[15, 20]):
        np.testing.assert_allclose(pixel, default_colours(2)[1], atol=SMOOTHED)


def test_lines_are_wider_where_pixels_are_finer(result):
    changed = [(draw_whole(replace(result, mpp=mpp)) != 200).any(-1).sum() for mpp in (0.5, 0.25, 0.125)]
    assert changed == sorted(set(changed))


def test_a_picture_of_real_labels_is_drawn(consep_dir, tmp_path):
    image = np.asarray(Image.open(consep_dir / "Train" / "Images" / "train_1.png").convert("RGB"))
    label_map = loadmat(consep_dir / "Train" / "Labels" / "train_1.mat")["inst_map"].astype(np.int32)
    label_map = np.unique(label_map, return_inverse=True)[1].reshape(label_map.shape).astype(np.int32)
    real = make_result(label_map, types=None, image=image)
    picture.write(real, tmp_path / "file")
    assert picture.read(tmp_path / "file").image.shape[1] == 1000


# overlay and label: the pyramid


def test_levels_halve_until_one_fits_into_a_tile():
    assert level_shapes((1, 1)) == [(1, 1)]
    assert level_shapes((TILE, TILE)) == [(TILE, TILE)]
    assert level_shapes((10, TILE + 1)) == [(10, TILE + 1), (5, TILE // 2 + 1)]
    assert level_shapes((3001, 1000))[1:] == [(1501, 500), (751, 250), (376, 125)]


@pytest.mark.parametrize("name", ["overlay", "label"])
def test_a_pyramid_shows_its_levels_resolution_and_name(name, large, tmp_path):
    path = tmp_path / "file"
    WRITERS[name].write(large, path)
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        assert file.is_bigtiff
        assert len(file.pages) == 1
        levels = file.series[0].levels
        assert [level.shape[:2] for level in levels] == [(1000, 1301), (500, 651), (250, 326)]
        assert all(level.keyframe.tile == (TILE, TILE) for level in levels)
        for index, level in enumerate(levels):
            assert level.keyframe.resolution == pytest.approx([1e4 / 0.25 / 2**index] * 2, rel=1e-6)
            assert level.keyframe.resolutionunit == tifffile.RESUNIT.CENTIMETER
        image = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
        assert image["Name"] == "tile 1"
        assert image["Pixels"]["PhysicalSizeX"] == image["Pixels"]["PhysicalSizeY"] == 0.25
        assert image["Pixels"]["PhysicalSizeXUnit"] == "µm"


def test_a_pyramid_of_unknown_resolution_states_none(large, tmp_path):
    overlay.write(replace(large, mpp=None), tmp_path / "file.tif")
    with open_slide(tmp_path / "file.tif") as slide:
        assert slide.mpp is None


def test_an_overlay_names_its_colours(large, tmp_path):
    overlay.write(large, tmp_path / "file")
    with tifffile.TiffFile(tmp_path / "file") as file:
        notes = file.ome_metadata
    assert '<M K="round">#FF0000</M>' in notes
    assert "wide, with a" in notes
    assert "#00C8FF" in notes


def test_an_overlay_opens_as_a_slide_here_and_in_openslide(large, tmp_path):
    path = tmp_path / "file.ome.tif"
    overlay.write(large, path)
    expected = draw_whole(large).astype(int)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25)
        assert [level.shape for level in slide.levels] == [(1000, 1301), (500, 651), (250, 326)]
        ours = slide.read((0, 0, 1000, 1301))
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (1301, 1000)
        theirs = np.asarray(slide.read_region((400, 450), 0, (300, 200)).convert("RGB"))
    assert np.abs(ours - expected).mean() < 2
    np.testing.assert_array_equal(theirs, ours[450:650, 400:700])


def test_lower_levels_of_an_overlay_are_area_means(tmp_path):
    """The chequerboard averages out; every second pixel of it would be 30 grey levels too light or dark."""
    label_map = scattered((1000, 1301))
    chequered = (
        smooth_image(label_map.shape) / 2 + 60 + 30 * (-1) ** np.indices(label_map.shape).sum(0)[..., None]
    )
    result = replace(make_result(label_map, image=chequered.astype(np.uint8)), tissue=None)
    overlay.write(result, tmp_path / "file")
    drawn = draw_whole(result)
    with tifffile.TiffFile(tmp_path / "file") as file:
        for index, level in enumerate(file.series[0].levels[1:], start=1):
            mean = np.asarray(Image.fromarray(drawn).reduce(2**index)).astype(int)
            difference = np.abs(level.asarray() - mean)
            assert difference.mean() < 2
            assert np.quantile(difference, 0.95) < JPEG


def test_lower_levels_of_a_label_are_every_second_pixel_of_the_level_above(large, tmp_path):
    label.write(large, tmp_path / "file")
    with tifffile.TiffFile(tmp_path / "file") as file:
        for index, level in enumerate(file.series[0].levels):
            step = 2**index
            np.testing.assert_array_equal(level.asarray(), large.whole_label_map()[::step, ::step])


def test_ids_beyond_16_bits_are_kept(tmp_path):
    first = Part(replace(Nuclei.empty(), ids=np.array([2_000_000_000])), one_square(500, 508), 600)
    result = SlideResult("many", (600, 600), lambda box: None, lambda: iter([first]))
    label.write(result, tmp_path / "file")
    label_map = label.read(tmp_path / "file").label_map
    assert (label_map[500:508, 500:508] == 2_000_000_000).all()
    assert (label_map > 0).sum() == 64


def one_square(start, stop):
    return PackedLabels.pack(np.ones((stop - start, stop - start), np.int32), (start, start))


def test_tiles_join_without_a_seam(large):
    """The image's own border aside, where a drawing that ends there lacks a part of the smoothing."""
    inner = slice(REACH_PX, -REACH_PX)
    for mpp in (0.125, 0.25, 0.5, None):
        changed = replace(large, mpp=mpp, tissue=None)
        joined, whole = join_tiles(changed, dots=True), draw_whole(changed, dots=True)
        np.testing.assert_array_equal(joined[inner, inner], whole[inner, inner])


def test_overlapping_parts_are_painted_once_by_both_writers(tmp_path):
    """Where two parts claim a pixel, the first keeps it, as in the label map of the whole."""
    nuclei = [replace(Nuclei.empty(), ids=np.array([index])) for index in (1, 2)]
    parts = [Part(nuclei[0], one_square(505, 520), 500), Part(nuclei[1], one_square(510, 530), 600)]
    result = SlideResult("overlap", (600, 600), lambda box: None, lambda: iter(parts))
    label.write(result, tmp_path / "file")
    np.testing.assert_array_equal(label.read(tmp_path / "file").label_map, result.whole_label_map())


def test_tiles_without_tissue_are_not_read():
    """Only the right one of three tiles has tissue; the middle one is too close to it for the mask's pixels."""
    shape = (TILE, 3 * TILE)
    boxes = []

    def read(box):
        boxes.append(box)
        return np.full((box[2] - box[0], box[3] - box[1], 3), 50, np.uint8)

    tissue = np.zeros((8, 24), bool)
    tissue[:, 16:] = True
    thumbnail = np.full((16, 48, 3), (10, 20, 30), np.uint8)
    result = SlideResult("slide", shape, read, lambda: iter(()), thumbnail=thumbnail, tissue=tissue)
    drawn = join_tiles(result)
    assert boxes == [(0, TILE, TILE, 2 * TILE), (0, 2 * TILE, TILE, 3 * TILE)]
    assert (drawn[:, :TILE] == (10, 20, 30)).all()
    assert (drawn[:, TILE:] == 50).all()
    boxes.clear()
    join_tiles(replace(result, tissue=None))
    assert len(boxes) == 3


def test_a_tile_without_tissue_lies_where_the_slide_has_it():
    """A faint ramp stays the same ramp when it is made small and large again."""
    height, width = 4 * TILE, TILE
    ramp = np.broadcast_to(np.linspace(120, 240, height)[:, None, None], (height, width, 3))
    thumbnail = np.rint(ramp.reshape(64, height // 64, width // 32, 32, 3).mean((1, 3))).astype(np.uint8)
    nothing = np.zeros((8, 8), bool)
    result = SlideResult("ramp", (height, width), None, lambda: iter(()), thumbnail=thumbnail, tissue=nothing)
    difference = join_tiles(result)[32:-32] - ramp[32:-32]
    assert np.abs(difference).max() < 2
    assert abs(difference.mean()) < 0.3  # half a pixel of the thumbnail is 0.9


def test_what_the_tissue_mask_leaves_out_is_read_where_there_is_something_to_see():
    """A mask of the user's may leave out tissue, which is not to look blurred."""
    shape = (TILE, 2 * TILE)
    thumbnail = np.full((16, 32, 3), 240, np.uint8)
    thumbnail[4:8, 20:24] = (200, 130, 180)
    drawn = join_tiles(
        SlideResult(
            "slide",
            shape,
            lambda box: np.full((box[2] - box[0], box[3] - box[1], 3), 50, np.uint8),
            lambda: iter(()),
            thumbnail=thumbnail,
            tissue=np.zeros((16, 32), bool),
        )
    )
    assert (drawn[:, :TILE] == 240).all()
    assert (drawn[:, TILE:] == 50).all()


# streaming


def test_a_row_of_tiles_is_given_as_soon_as_no_later_part_can_show_in_it():
    taken = []

    def parts():
        for complete_to in (100, TILE, TILE + 4, 2 * TILE, 1500):
            taken.append(complete_to)
            yield Part(Nuclei.empty(), PackedLabels((0, 0, 0, 0), False, b""), complete_to)

    seen = [(row, len(arrived), taken[-1]) for row, arrived in completed_rows(parts(), 1500, reach=4)]
    assert seen == [(0, 3, TILE + 4), (1, 2, 1500), (2, 0, 1500)]


@pytest.mark.parametrize("name", ["overlay", "label"])
def test_rows_are_written_while_later_parts_are_still_to_come(name, tmp_path):
    """When the last part is asked for, the tiles above are in the file."""
    label_map = scattered((2100, 700))
    noise = np.random.default_rng(0).integers(0, 255, (*label_map.shape, 3), np.uint8)
    result = make_result(label_map, region_size=512, image=noise)
    path = tmp_path / "file"
    sizes = []

    def parts():
        for part in result.parts():
            sizes.append(path.stat().st_size if path.exists() else 0)
            yield part

    WRITERS[name].write(replace(result, parts=parts, tissue=None), path)
    assert sizes[0] == 0
    assert sizes[-1] > (0.3 * path.stat().st_size if name == "overlay" else 0)


@pytest.mark.parametrize("name", ["overlay", "label"])
def test_a_journal_that_is_closed_ends_the_writing(name, large, tmp_path):
    def parts():
        given = list(large.parts())
        yield from given[: len(given) * 2 // 3]
        raise OSError("stopped")

    with pytest.raises(OSError, match="stopped"):
        WRITERS[name].write(replace(large, parts=parts), tmp_path / "file")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tile")]


def test_a_tile_that_cannot_be_read_ends_the_writing(large, tmp_path):
    def read(box):
        raise OSError(f"cannot read {box}")

    with pytest.raises(OSError, match="cannot read"):
        overlay.write(replace(large, read=read), tmp_path / "file")


@pytest.mark.parametrize("name", ["overlay", "label"])
def test_memory_does_not_grow_with_the_slide(name, tmp_path):
    width, low, high = 2048, 2048, 8192

    def peak(height):
        label_map = np.zeros((1024, 1024), np.int32)
        label_map[:90, :120] = ellipses()
        one = make_result(label_map, types=None).whole_nuclei()

        def parts():
            for index, top in enumerate(range(0, height, 1024)):
                nuclei = one.shift((top, 0)).renumber(1 + index * len(one))
                yield Part(nuclei, PackedLabels.pack(label_map, (top, 0)), top + 1024)

        def read(box):
            return np.full((box[2] - box[0], box[3] - box[1], 3), 230, np.uint8)

        result = SlideResult("slide", (height, width), read, parts)
        tracemalloc.start()
        WRITERS[name].write(result, tmp_path / "file")
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    num_more_bytes = (high - low) * width * (3 if name == "overlay" else 4)
    assert peak(high) - peak(low) < 0.1 * num_more_bytes


# thumb and mask


def test_a_thumbnail_and_its_mask_are_written_as_they_are(result, tmp_path):
    thumb.write(result, tmp_path / "thumb")
    mask.write(result, tmp_path / "mask")
    np.testing.assert_array_equal(thumb.read(tmp_path / "thumb").image, result.thumbnail)
    written = mask.read(tmp_path / "mask").image
    assert set(np.unique(written)) == {0, 255}
    np.testing.assert_array_equal(written[..., 0] == 255, result.tissue)


def test_a_thumbnail_is_made_of_blocks_where_there_is_none(tmp_path):
    """Every pixel is the mean of 3 x 3, fewer at the end, however the blocks lie."""
    image = np.random.default_rng(1).integers(0, 255, (2071, 2500, 3), np.uint8)
    boxes = []

    def read(box):
        boxes.append(box)
        return image[box[0] : box[2], box[1] : box[3]]

    result = SlideResult("slide", image.shape[:2], read, lambda: iter(()))
    thumb.write(result, tmp_path / "thumb")
    mask.write(result, tmp_path / "mask")
    small = thumb.read(tmp_path / "thumb").image
    assert small.shape == (691, 834, 3)
    assert len(boxes) == 4
    np.testing.assert_allclose(small[-1, -1], image[2070:, 2499:].mean((0, 1)), atol=1)
    np.testing.assert_allclose(small[682, 683], image[2046:2049, 2049:2052].mean((0, 1)), atol=1)
    everywhere = mask.read(tmp_path / "mask").image
    assert everywhere.shape == small.shape
    assert (everywhere == 255).all()


@pytest.mark.parametrize("write", [label.write, overlay.write])
def test_a_result_written_twice_is_equal_to_the_byte(result, write, tmp_path):
    for name in "ab":
        write(result, tmp_path / f"{name}.ome.tif")
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "b.ome.tif").read_bytes()
