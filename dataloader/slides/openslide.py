"""The vendors' formats (NDPI, MIRAX, SCN, BIF, VMS, DICOM …) through OpenSlide; imported when it is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import openslide

from dataloader.slides.pixels import WHITE, as_rgb
from dataloader.slides.slide import REMEDY_TILED, Box, Level, Shape, SlideError, UnsupportedError
from dataloader.slides.tiff_resolution import UM_TIMES_POWER, first_plausible

UM_PER_TIFF_UNIT = {"inch": 25_400.0, "centimeter": 10_000.0}
BLEND_FREE = 1 / 256  # level px off its pixel grid from which OpenSlide (Cairo) blends neighbours; measured
ANCHOR_REACH = 64  # level px read in addition, at most, so that a box starts on the level's pixel grid


class OpenSlideReader:
    """Any slide that OpenSlide opens, cut to what was scanned.

    Some formats (MIRAX, SCN) lay what was scanned into a large empty frame and state its bounds: the slide is
    what lies within them, its coordinates start there, and ``origin_level0`` is its place in the frame.
    Areas that were never scanned are white. One handle serves all threads. OpenSlide does not go on after a
    read that failed: every later one fails with the same words.
    """

    def __init__(self, path: Path):
        """Open ``path``, for a format of several files the one that OpenSlide names (e.g. ``.mrxs``).

        Raises:
            UnsupportedError: OpenSlide does not know the file's kind.
            SlideError: the file is damaged.
        """
        self.path = path
        try:
            handle = openslide.OpenSlide(path)
            self.origin_level0, shapes = _bounded(handle)
            self._downsamples = handle.level_downsamples
            self.mpp = _find_mpp(handle.properties)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise UnsupportedError(
                f"{path} cannot be read by OpenSlide: it is of no kind that OpenSlide "
                f"{openslide.__library_version__} knows, or a file beside it is missing; copy it again "
                f"with its folder, or {REMEDY_TILED}"
            ) from error
        except (openslide.OpenSlideError, OSError, ValueError) as error:
            raise SlideError(
                f"{path} cannot be read by OpenSlide: {error}; check that it and the files beside it "
                "are complete, or copy it again"
            ) from error
        self._handle: openslide.OpenSlide | None = handle
        self.levels = tuple(Level.of(shape, shapes[0]) for shape in shapes)

    def read_level(self, level: int, box_yxyx: Box) -> np.ndarray:
        """Return (h, w, 3) uint8 RGB of a box inside the level, in its pixels.

        Raises:
            SlideError: OpenSlide cannot decode it, or could not decode an earlier one.
        """
        top, left, bottom, right = box_yxyx
        downsample = self._downsamples[level]
        first_row, y_level0 = _anchor(top, self.origin_level0[0], downsample)
        first_column, x_level0 = _anchor(left, self.origin_level0[1], downsample)
        size = (right - first_column, bottom - first_row)
        try:
            image = self._opened().read_region((x_level0, y_level0), level, size)
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{self.path}: box {box_yxyx} of level {level} cannot be decoded: {error}; "
                "the file is damaged, copy it again"
            ) from error
        rgba = np.asarray(image)[top - first_row :, left - first_column :]
        if (rgba[..., 3] == WHITE).all():  # all there, as nearly always
            return cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
        return as_rgb(rgba)

    def close(self) -> None:
        """Let go of the file; OpenSlide closes it once no thread reads from it."""
        self._handle = None

    def _opened(self) -> openslide.OpenSlide:
        handle = self._handle
        if handle is None:
            raise SlideError(f"{self.path} was closed; open it again with open_slide")
        return handle


def _bounded(handle: openslide.OpenSlide) -> tuple[Shape, list[Shape]]:
    """Return (y, x) where what was scanned begins in the level-0 frame, and its (height, width) in each level."""
    width, height = handle.dimensions
    stated = handle.properties
    left = max(0, int(stated.get(openslide.PROPERTY_NAME_BOUNDS_X, 0)))
    top = max(0, int(stated.get(openslide.PROPERTY_NAME_BOUNDS_Y, 0)))
    bounded_width = min(width - left, int(stated.get(openslide.PROPERTY_NAME_BOUNDS_WIDTH, width)))
    bounded_height = min(height - top, int(stated.get(openslide.PROPERTY_NAME_BOUNDS_HEIGHT, height)))
    if min(bounded_width, bounded_height) <= 0 or (bounded_height, bounded_width) == (height, width):
        return (0, 0), [(rows, columns) for columns, rows in handle.level_dimensions]
    shapes = [
        (max(1, int(bounded_height / downsample)), max(1, int(bounded_width / downsample)))
        for downsample in handle.level_downsamples
    ]
    return (top, left), shapes


def _anchor(first: int, origin_level0: int, downsample: float) -> tuple[int, int]:
    """Return the level pixel to read from, at or before ``first``, and its place in the file's level-0 frame.

    OpenSlide takes whole level-0 places. A level of, say, 4.0056 level-0 pixels to one then starts between
    two of its pixels and is blended; from the pixel returned here it is not, or as little as can be had.
    """
    pixels = np.arange(first, max(first - ANCHOR_REACH, 0) - 1, -1)
    exact = origin_level0 + pixels * downsample
    off = np.abs(np.rint(exact) - exact) / downsample
    best = int(np.argmax(off < BLEND_FREE)) if off.min() < BLEND_FREE else int(np.argmin(off))
    return int(pixels[best]), int(np.rint(exact[best]))


def _find_mpp(properties: Mapping[str, str]) -> float | None:
    """Return µm to a level-0 pixel: as the vendor states it, by the TIFF's tags, or by the objective's power."""
    return first_plausible(_state_mpp(properties))


def _state_mpp(properties: Mapping[str, str]) -> Iterator[float]:
    stated = _numbers(properties, openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    if stated:
        yield sum(stated) / len(stated)
    um_per_unit = UM_PER_TIFF_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    per_unit = _numbers(properties, "tiff.XResolution", "tiff.YResolution")
    if um_per_unit and per_unit:
        yield sum(um_per_unit / number for number in per_unit) / len(per_unit)
    for power in _numbers(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER):
        yield UM_TIMES_POWER / power


def _numbers(properties: Mapping[str, str], *names: str) -> list[float]:
    """Return those of the properties that are numbers above 0."""
    numbers = []
    for name in names:
        try:
            numbers.append(float(properties.get(name, "")))
        except ValueError:
            continue
    return [number for number in numbers if number > 0]
