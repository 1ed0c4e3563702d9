"""The slide: anything readable as RGB at a chosen resolution; all the pipeline knows of files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from dataloader.address import Address
from dataloader.slides.pixels import WHITE
from dataloader.slides.resample import resample

Box = tuple[int, int, int, int]
Shape = tuple[int, int]

LEVEL_TOLERANCE = 0.01  # a level up to 1 % coarser than asked for still serves: no eye or network sees it


REMEDY_TILED = (
    "write it as a tiled RGB pyramid, e.g. vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
)


class SlideError(OSError):
    """A slide that cannot be read; the message holds its path, the reason and the remedy."""


class UnsupportedError(SlideError):
    """A slide that may well be whole, but is of a kind that this reader does not read; another one may."""


@dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    Attributes:
        shape: (height, width) in pixels of this level.
        downsample: level-0 pixels to one pixel of this level; 1 for level 0.
    """

    shape: Shape
    downsample: float

    @staticmethod
    def of(shape: Shape, shape_level0: Shape) -> Level:
        """Return the level of ``shape`` in a slide of ``shape_level0``.

        Scanners trim a level to whole pixels, so 2220 / 554 stands for 4, not for 4.007: an integer
        downsample that explains both sides to within one pixel is taken as exact; else the mean ratio of the
        sides counts.
        """
        ratio = (shape_level0[0] / shape[0] + shape_level0[1] / shape[1]) / 2
        whole = max(1, round(ratio))
        is_whole = all(abs(full / whole - side) <= 1 for full, side in zip(shape_level0, shape, strict=True))
        return Level(shape, float(whole) if is_whole else ratio)


class SlideReader(Protocol):
    """What a file format must offer to be a slide; a row of ``READERS`` makes one from a path.

    Attributes:
        path: the file, or its address.
        levels: finest first; the first is level 0.
        mpp: µm to a level-0 pixel (mean of both axes), or None where the file does not say.

    A reader that leaves out empty space around what was scanned also has ``origin_level0``, the (y, x) of its
    first pixel in the frame of the scanner's file.
    """

    levels: tuple[Level, ...]
    mpp: float | None

    @property
    def path(self) -> Path | Address:
        """The file, or its address."""

    def read_level(self, level: int, box_yxyx: Box) -> np.ndarray:
        """Return (h, w, 3) uint8 RGB of a box in the level's own pixels, not empty and inside its bounds.

        The array is the caller's own.

        Called from several threads at once.
        """

    def close(self) -> None:
        """Let go of the file."""


class Slide:
    """A slide or image, read at any resolution.

    The working resolution is chosen by each call, in µm/px. With ``scale = mpp / slide.mpp`` (level-0 pixels
    to a working pixel), working pixel i covers the level-0 interval [i * scale, (i + 1) * scale); the working
    image has ``round(side_level0 / scale)`` pixels a side. A pixel's value depends on nothing but its index,
    so that reading in pieces equals reading whole.

    Attributes:
        path: the file, or its address.
        levels: finest first; the first is level 0.
        mpp: µm to a level-0 pixel, None where unknown.
        origin_level0: (y, x) that has to be added to a level-0 place for the scanner's own frame; (0, 0) but
            for formats with empty space around what was scanned (``OpenSlideReader``).
    """

    def __init__(self, reader: SlideReader, mpp: float | None = None):
        """Wrap ``reader``.

        Args:
            reader: the file's reader.
            mpp: µm to a level-0 pixel, in place of what the file says.
        """
        if mpp is not None and mpp <= 0:
            raise ValueError(f"mpp={mpp} of {reader.path} must be above 0; give µm to a pixel, e.g. mpp=0.25")
        self._reader = reader
        self._copy: tempfile.TemporaryDirectory | None = None
        self.path: Path | Address = reader.path
        self.levels = reader.levels
        self.mpp = reader.mpp if mpp is None else mpp
        self.origin_level0: tuple[int, int] = getattr(reader, "origin_level0", (0, 0))

    @property
    def shape_level0(self) -> Shape:
        """(height, width) in level-0 pixels."""
        return self.levels[0].shape

    def level0_scale(self, mpp: float | None = None) -> float:
        """Return how many level-0 pixels one working pixel spans; 1 for ``mpp=None``, level 0 as it is.

        Raises:
            SlideError: ``mpp`` is given and the slide's own resolution is unknown.
            ValueError: ``mpp`` is not above 0.
        """
        if mpp is None:
            return 1.0
        if mpp <= 0:
            raise ValueError(f"mpp={mpp} must be above 0; give µm to a pixel, e.g. mpp=0.25")
        if self.mpp is None:
            raise SlideError(
                f"{self.path} does not say how many µm a pixel has, so it cannot be read at {mpp:g} µm/px; state "
                "it: run_infer.py mpp=0.25, or open_slide(path, mpp=0.25), for a scan at 40x; mpp=0.5 at 20x"
            )
        return mpp / self.mpp

    def working_shape(self, mpp: float | None = None) -> Shape:
        """Return (height, width) of the whole slide at ``mpp`` µm/px, at least 1 a side."""
        return self._shape_at(self.level0_scale(mpp))

    def _shape_at(self, scale: float) -> Shape:
        height, width = self.shape_level0
        return max(1, round(height / scale)), max(1, round(width / scale))

    def read(self, box_yxyx: Box, mpp: float | None = None) -> np.ndarray:
        """Read a box.

        Pixels are averaged by area when shrinking and interpolated (cubic) when enlarging, from the coarsest
        level that is fine enough.

        Args:
            box_yxyx: half-open, in pixels at the working resolution; it may reach beyond the slide.
            mpp: working resolution, µm/px; None for level-0 pixels as they are.

        Returns:
            (h, w, 3) uint8 RGB, white outside the slide; an empty box gives an empty array.

        Raises:
            SlideError: the file cannot be decoded there, or ``mpp`` is given and the slide's is unknown.
            ValueError: the box ends before it starts, or ``mpp`` is not above 0.
        """
        return self.read_scaled(box_yxyx, self.level0_scale(mpp))

    def read_scaled(self, box_yxyx: Box, scale: float) -> np.ndarray:
        """Read a box as ``read`` does, for slides whose µm/px need not be known.

        Args:
            box_yxyx: half-open, in pixels of which each spans ``scale`` level-0 pixels.
            scale: level-0 pixels to a pixel, above 0.
        """
        top, left, bottom, right = box_yxyx
        if bottom < top or right < left:
            raise ValueError(f"box_yxyx={box_yxyx} ends before it starts; give (top, left, bottom, right)")
        height, width = self._shape_at(scale)
        region = np.full((bottom - top, right - left, 3), WHITE, np.uint8)
        inside = (max(top, 0), max(left, 0), min(bottom, height), min(right, width))
        if inside[0] < inside[2] and inside[1] < inside[3]:
            rows = slice(inside[0] - top, inside[2] - top)
            columns = slice(inside[1] - left, inside[3] - left)
            region[rows, columns] = self._read_inside(inside, scale)
        return region

    def source_level(self, scale: float) -> int:
        """Return the number of the level that pixels of ``scale`` level-0 pixels are read from."""
        fine_enough = [
            index
            for index, level in enumerate(self.levels)
            if level.downsample <= scale * (1 + LEVEL_TOLERANCE)
        ]
        return max(fine_enough, key=lambda i: self.levels[i].downsample, default=0)

    def _read_inside(self, box_yxyx: Box, scale: float) -> np.ndarray:
        """Read a box within the working bounds; ``scale`` is level-0 pixels to a working pixel."""
        index = self.source_level(scale)
        level = self.levels[index]
        return resample(
            partial(self._reader.read_level, index), box_yxyx, scale / level.downsample, level.shape
        )

    def close(self) -> None:
        """Let go of the file; the slide cannot be read afterwards."""
        self._reader.close()
        if self._copy is not None:
            self._copy.cleanup()

    def stand_for(self, address: Address, copy: tempfile.TemporaryDirectory) -> None:
        """Take the name of the address that the file is a copy of, in a folder that goes with the slide."""
        self._reader.path = address  # type: ignore[misc]  # an attribute of those that read copies
        self.path = address
        self._copy = copy

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
