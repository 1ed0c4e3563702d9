"""Ordinary images (PNG, JPEG, BMP …) as slides of one level, decoded once with Pillow."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from PIL import Image

from dataloader.slides.pixels import as_rgb
from dataloader.slides.slide import Box, Level, SlideError

_PILLOW_LIMIT = threading.Lock()  # Pillow's size limit is a global of the process


class ImageReader:
    """An ordinary image, held in memory as RGB.

    16-bit grey is scaled to 8 bits, grey and palettes become RGB, transparency is laid on white. Orientation
    tags (EXIF) are not followed: coordinates mean the pixels as they are stored. Such files do not state
    µm/px reliably, so ``mpp`` is None.
    """

    def __init__(self, path: Path):
        """Decode ``path``.

        Raises:
            SlideError: not an image, or one that ends early.
        """
        self.path = path
        self.mpp: float | None = None
        self._pixels = _decode(path)
        shape = self._pixels.shape[:2]
        self.levels: tuple[Level, ...] = (Level((shape[0], shape[1]), 1.0),)

    def read_level(self, level: int, box_yxyx: Box) -> np.ndarray:
        """Return (h, w, 3) uint8 RGB of a box inside the image; ``level`` is 0."""
        top, left, bottom, right = box_yxyx
        return self._pixels[top:bottom, left:right].copy()

    def close(self) -> None:
        """Do nothing: the file was closed once it was decoded."""


def _decode(path: Path) -> np.ndarray:
    """Return the whole image as (H, W, 3) uint8 RGB."""
    try:
        with path.open("rb") as file, _open_unlimited(file) as image:
            return np.ascontiguousarray(_as_array(image))
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
    ) as error:  # SyntaxError: Pillow's word for a broken PNG
        raise SlideError(
            f"{path} cannot be read as an image: {error}; check that the file is complete, or copy it again"
        ) from error


def _open_unlimited(file: object) -> Image.Image:
    """Open an image of any size, Pillow's limit (meant for files of strangers) put back before it decodes."""
    with _PILLOW_LIMIT:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(file)  # type: ignore[arg-type]
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _as_array(image: Image.Image) -> np.ndarray:
    """Return Pillow's pixels, of whatever mode, as RGB."""
    if image.mode.startswith("I;16"):
        return as_rgb(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):
        raise ValueError(f"its samples (Pillow mode {image.mode}) are not 8 or 16 bits; save it as 8-bit RGB")
    has_transparency = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return as_rgb(np.asarray(image.convert("RGBA" if has_transparency else "RGB")))
