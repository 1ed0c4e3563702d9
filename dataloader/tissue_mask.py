"""A user's own mask of where to look on a slide, from an image file, in place of tissue found by colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from dataloader.overview import read_overview
from dataloader.slides import SlideError, open_slide
from dataloader.slides.tiff import BROKEN_FILE

EXTENSIONS = (".png", ".tif", ".tiff")
ASPECT_TOLERANCE = 0.05
PIXEL_LIMIT = 2**24  # of a mask in memory; 4096² over a slide of 100,000 px are cells of 25 px
LEAST_LEVEL = 2**20  # px of the level of a pyramid that is read
WHOLE_LIMIT = 2**26  # px of a TIFF that is decoded at once; a larger one is read as a slide

Shape = tuple[int, int]


def find_mask(path: str | Path, slide_name: str) -> Path:
    """Return the mask of a slide: ``path`` itself, or the file in it that is called as the slide.

    Args:
        path: a mask, or a folder that holds ``{slide_name}.png`` or ``.tif``.
        slide_name: without extension.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        candidates = [path / f"{slide_name}{extension}" for extension in EXTENSIONS]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise FileNotFoundError(
            f"mask={path} has no mask for slide {slide_name}; add {candidates[0].name}, or take the slide out"
        )
    if not path.exists():
        raise FileNotFoundError(
            f"mask={path} does not exist; give an image, or a folder with one for each slide"
        )
    return path


def read_mask(path: str | Path, shape_level0: Shape) -> np.ndarray:
    """Read a mask: pixels above 0 are where to look. Of a pyramid a level of low power is read.

    Args:
        path: an image of the whole slide, of any size and kind; colours count where any channel is above 0, and
            not where they are wholly transparent.
        shape_level0: (height, width) of the slide, whose aspect the mask must have to within 5 %.

    Returns:
        (h, w) bool, at most 2**24 pixels; a larger mask is shrunk, its small parts kept.

    Raises:
        SlideError: not an image, or one that is damaged.
        ValueError: the mask has another aspect than the slide.
    """
    path = Path(path)
    mask = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _read_image(path)
    fitting_width = mask.shape[0] * shape_level0[1] / shape_level0[0]
    if abs(mask.shape[1] - fitting_width) > max(ASPECT_TOLERANCE * fitting_width, 1):
        raise ValueError(
            f"mask {path} of {mask.shape[0]}x{mask.shape[1]} px does not fit the slide of "
            f"{shape_level0[0]}x{shape_level0[1]}: height to width may differ by 5 %; make it of the whole slide"
        )
    return _shrink(mask)


def _read_image(path: Path) -> np.ndarray:
    """Return the (h, w) bool mask of an ordinary image."""
    pixels = None
    if path.stat().st_size:
        try:
            pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:  # OpenCV's limit of 2**30 pixels
            raise SlideError(f"mask {path} cannot be read: {error.err}; write it smaller, as PNG") from error
    if pixels is None:
        raise SlideError(f"mask {path} cannot be read as an image; write it as PNG, or copy it again")
    return _is_marked(pixels)


def _read_tiff(path: Path) -> np.ndarray:
    """Return the (h, w) bool mask of a TIFF's largest image, at the coarsest level of ``LEAST_LEVEL`` px or more."""
    try:
        with tifffile.TiffFile(path) as file:
            levels = max(file.series, key=lambda series: _num_pixels(series.keyframe)).levels
            level = next(
                (one for one in reversed(levels) if _num_pixels(one.keyframe) >= LEAST_LEVEL), levels[0]
            )
            page = level.keyframe
            if _num_pixels(page) <= WHOLE_LIMIT:
                pixels = page.asarray()
                if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
                    pixels = np.moveaxis(pixels, 0, 2)
                if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
                    pixels = pixels != 2**page.bitspersample - 1  # black is the largest value
                return _is_marked(pixels)
    except BROKEN_FILE as error:
        raise SlideError(f"mask {path} cannot be read: {error}; write it as PNG, or copy it again") from error
    with open_slide(path) as slide:
        return _is_marked(read_overview(slide, PIXEL_LIMIT))


def _num_pixels(page: Any) -> int:
    return page.imagelength * page.imagewidth


def _is_marked(pixels: np.ndarray) -> np.ndarray:
    """Return (h, w) bool of (h, w) or (h, w, channels) pixels that are above 0 and not transparent."""
    if pixels.ndim == 2:
        return pixels > 0
    num_colours = pixels.shape[2] - 1 if pixels.shape[2] in (2, 4) else pixels.shape[2]
    is_coloured = np.any(pixels[..., :num_colours] > 0, axis=2)
    return is_coloured & np.all(pixels[..., num_colours:] > 0, axis=2)


def _shrink(mask: np.ndarray) -> np.ndarray:
    """Return (h, w) bool of at most about ``PIXEL_LIMIT`` cells, True where any pixel in them is."""
    times = max(1.0, (mask.size / PIXEL_LIMIT) ** 0.5)
    for axis in (0, 1):
        num_cells = max(1, int(mask.shape[axis] / times))
        starts = np.arange(num_cells) * mask.shape[axis] // num_cells
        mask = np.logical_or.reduceat(mask, starts, axis)
    return mask
