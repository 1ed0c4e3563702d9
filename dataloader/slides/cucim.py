"""Tiled TIFF through RAPIDS cuCIM, for who has it and asks for it; imported when it is chosen."""

from __future__ import annotations

import logging
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from cucim import CuImage

from dataloader.slides.pixels import as_rgb
from dataloader.slides.slide import Box, Level
from dataloader.slides.tiff import TiffReader

logger = logging.getLogger(__name__)

FAILURES = (RuntimeError, ValueError, OSError)  # what cuCIM raises, and a SlideError of the TIFF reader
PROBE = 64  # px a side, from the middle of each level
PROBE_TOLERANCE = 8  # grey levels: two JPEG decoders differ by less, two colour spaces by more


class CuCimReader:
    """A TIFF's tiles decoded by cuCIM, everything else as ``TiffReader`` has it.

    cuCIM reads some TIFFs only in part, or in wrong colours. When a file is opened a little of each level is
    therefore compared with ``TiffReader``, which reads the file alone where they differ (a line in the log
    says so), and any box that cuCIM fails on. Each thread has a handle of its own: two threads must not read
    from one.
    """

    def __init__(self, path: Path):
        """Open ``path``.

        Raises:
            SlideError: neither cuCIM nor ``TiffReader`` reads it.
        """
        self.path = path
        self._tiff = TiffReader(path)
        self.levels: tuple[Level, ...] = self._tiff.levels
        self.mpp = self._tiff.mpp
        self._threads = threading.local()
        reason = self._find_fault()
        self._is_used = reason is None
        self._has_warned = False
        if reason is not None:
            logger.warning("%s: cuCIM %s; the TIFF reader reads it", path, reason)

    def read_level(self, level: int, box_yxyx: Box) -> np.ndarray:
        """Return (h, w, 3) uint8 RGB of a box inside the level, in its pixels.

        Raises:
            SlideError: a tile cannot be decoded.
        """
        if self._is_used and self._tiff.has_sound_tiles(level, box_yxyx):
            try:
                return self._read(level, box_yxyx)
            except FAILURES as error:
                self._warn(level, box_yxyx, error)
        return self._tiff.read_level(level, box_yxyx)

    def close(self) -> None:
        """Close the file; it cannot be read afterwards."""
        self._is_used = False
        self._threads = threading.local()
        self._tiff.close()

    def _warn(self, level: int, box_yxyx: Box, error: Exception) -> None:
        """Say once for the slide that cuCIM failed on a box; the boxes after it go to the debug log."""
        logger.log(
            logging.DEBUG if self._has_warned else logging.WARNING,
            "%s: cuCIM failed on box %s of level %d (%s); the TIFF reader reads it and others like it, slower",
            self.path,
            box_yxyx,
            level,
            error,
        )
        self._has_warned = True

    def _read(self, level: int, box_yxyx: Box) -> np.ndarray:
        top, left, bottom, right = box_yxyx
        handle = self._handle()
        downsample = handle.resolutions["level_downsamples"][level]
        location = (_place_level0(left, downsample), _place_level0(top, downsample))
        return as_rgb(np.asarray(handle.read_region(location, (right - left, bottom - top), level)))

    def _handle(self) -> Any:
        """Return this thread's handle."""
        if not hasattr(self._threads, "handle"):
            self._threads.handle = CuImage(str(self.path))
        return self._threads.handle

    def _find_fault(self) -> str | None:
        """Return why cuCIM cannot be used for this file, or None."""
        try:
            sides = [(height, width) for width, height in self._handle().resolutions["level_dimensions"]]
            if sides != [level.shape for level in self.levels]:
                return f"finds levels of {sides} px"
            for index, level in enumerate(self.levels):
                box = _middle(level.shape)
                difference = self._read(index, box).astype(int) - self._tiff.read_level(index, box)
                if np.abs(difference).max() > PROBE_TOLERANCE:
                    return f"gives other pixels in level {index}"
        except FAILURES as error:
            return f"cannot read it ({error})"
        return None


def _middle(shape: tuple[int, int]) -> Box:
    top, left = (max(0, (side - PROBE) // 2) for side in shape)
    return top, left, min(top + PROBE, shape[0]), min(left + PROBE, shape[1])


def _place_level0(pixel: int, downsample: float) -> int:
    """Return a level-0 place well inside what a level's pixel covers: cuCIM divides it again and rounds down."""
    return math.ceil(pixel * downsample + (downsample - 1) / 2)
