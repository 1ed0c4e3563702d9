"""Deep Zoom tiles of slides that lack the levels for them: what they show, and how much is read at once."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataloader.slides import Level, Slide, SlideError
from run_utils.viewer import deep_zoom
from run_utils.viewer.deep_zoom import DeepZoom

MPX = 2**20


class Ramp:
    """A slide that grows brighter downwards (red) and to the right (green); it counts what is read."""

    path = Path("ramp")
    mpp = 0.25

    def __init__(self, *shapes):
        self.levels = tuple(Level.of(shape, shapes[0]) for shape in shapes)
        self.areas = []

    def read_level(self, level, box):
        top, left, bottom, right = box
        self.areas.append((bottom - top) * (right - left))
        height, width = self.levels[level].shape
        pixels = np.full((bottom - top, right - left, 3), 50, np.uint8)
        pixels[..., 0] = (np.arange(top, bottom) * 256 // height)[:, None]
        pixels[..., 1] = np.arange(left, right) * 256 // width
        return pixels

    def close(self):
        pass


def decode(tile):
    return cv2.imdecode(np.frombuffer(tile, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(float)


def ramp_of(zoom, level, column, row):
    """What a tile has to show: the brightness in the middle of what each pixel covers, rounded down."""
    scale = 2 ** (zoom.last - level)

    def axis(index, side):
        first, last = max(0, index * 510 - 1), min((index + 1) * 510 + 1, -(-side // scale))
        covered = np.arange(first, last) * scale, np.minimum(np.arange(first + 1, last + 1) * scale, side)
        return np.add(*covered) / 2 / side * 256 - 0.5

    rows, columns = axis(row, zoom.height), axis(column, zoom.width)
    return np.stack(np.broadcast_arrays(rows[:, None], columns), 2)


def test_a_low_power_tile_of_a_slide_of_one_level_is_read_in_small_boxes():
    reader = Ramp((60_000, 60_000))
    zoom = DeepZoom(Slide(reader))
    level = zoom.last - 4  # 16 level-0 pixels to one: 67 Mpx a tile
    tile = decode(zoom.tile(level, 2, 3))
    assert max(reader.areas) <= 16 * MPX
    assert sum(reader.areas) == (512 * 16) ** 2
    assert np.abs(tile[..., :2] - ramp_of(zoom, level, 2, 3)).mean() < 2


@pytest.mark.parametrize("shape", [(13_000, 17_001), (20_000, 3001)])
def test_all_coarse_levels_together_read_a_slide_of_one_level_once(shape, monkeypatch):
    reader = Ramp(shape)
    zoom = DeepZoom(Slide(reader))
    monkeypatch.setattr(deep_zoom, "LARGEST_SHRINK", 4)
    for level in range(zoom.last - 2):  # 8 level-0 pixels to one, and more
        tile = decode(zoom.tile(level, 0, 0))
        if min(tile.shape[:2]) > 64:  # JPEG halves the resolution of colours, which tells in a steep ramp
            assert np.abs(tile[..., :2] - ramp_of(zoom, level, 0, 0)).mean() < 3
    assert max(reader.areas) <= 16 * MPX
    assert sum(reader.areas) <= 1.02 * shape[0] * shape[1]  # odd edges are shared by two boxes


def test_requests_at_the_same_time_read_the_slide_once():
    reader = Ramp((9000, 9000))
    zoom = DeepZoom(Slide(reader))
    tiles = []
    threads = [threading.Thread(target=lambda: tiles.append(zoom.tile(9, 0, 0))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tiles) == 6
    assert len(set(tiles)) == 1
    assert sum(reader.areas) <= 1.02 * 9000**2


def test_tiles_in_blocks_equal_tiles_read_at_once(monkeypatch):
    whole, blocks = (DeepZoom(Slide(Ramp((5000, 7000), (1250, 1750)))) for _ in range(2))
    level = whole.last - 3
    expected = decode(whole.tile(level, 1, 0))
    monkeypatch.setattr(deep_zoom, "LARGEST_SHRINK", 1)
    monkeypatch.setattr(deep_zoom, "BLOCK_SIDE", 300)
    blocks._low_power_level = 0
    np.testing.assert_array_equal(decode(blocks.tile(level, 1, 0)), expected)


def test_a_slide_with_levels_is_read_from_them_at_once():
    reader = Ramp((60_000, 60_000), (15_000, 15_000), (3750, 3750), (938, 938))
    zoom = DeepZoom(Slide(reader))
    for level in range(zoom.last + 1):
        zoom.tile(level, 0, 0)
    assert len(reader.areas) <= zoom.last + 1  # the smallest come from a picture of the smallest level
    assert max(reader.areas) <= (512 * 4) ** 2


def test_a_tile_that_failed_is_read_when_it_is_asked_for_again(monkeypatch):
    reader = Ramp((9000, 9000))
    zoom = DeepZoom(Slide(reader))
    read = reader.read_level

    def fail(*_):
        raise SlideError("ramp: tile 7 cannot be decoded")

    monkeypatch.setattr(reader, "read_level", fail)
    with pytest.raises(SlideError, match="tile 7"):
        zoom.tile(9, 0, 0)
    monkeypatch.setattr(reader, "read_level", read)
    assert decode(zoom.tile(9, 0, 0)).shape == (282, 282, 3)
