"""PNG of the whole slide, made small: beside the results, what they are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from run_utils.outputs.picture import read
from run_utils.outputs.result import SlideResult

THUMBNAIL_PX = 1024  # side of one that is made here
BLOCK_PX = 2048  # read at once, at least

__all__ = ["make_thumbnail", "read", "write"]


def write(result: SlideResult, path: Path) -> None:
    """Write the thumbnail as it is, or one of at most 1024 px a side where the result has none."""
    Image.fromarray(make_thumbnail(result)).save(path, format="PNG")


def make_thumbnail(result: SlideResult) -> np.ndarray:
    """Return the result's thumbnail, (h, w, 3) uint8 RGB, or area means of blocks of the slide, read one by one."""
    if result.thumbnail is not None:
        return result.thumbnail
    height, width = result.shape
    factor = -(-max(result.shape) // THUMBNAIL_PX)
    block = factor * -(-BLOCK_PX // factor)
    thumbnail = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for top in range(0, height, block):
        for left in range(0, width, block):
            box = (top, left, min(top + block, height), min(left + block, width))
            small = np.asarray(Image.fromarray(result.read(box)).reduce(factor))
            y, x = top // factor, left // factor
            thumbnail[y : y + small.shape[0], x : x + small.shape[1]] = small
    return thumbnail
