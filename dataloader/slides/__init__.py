"""Slides and images under one call: ``open_slide`` picks the reader by the file's extension."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dataloader.slides.image import ImageReader
from dataloader.slides.mirror import read_mirrored
from dataloader.slides.slide import Level, Slide, SlideError, SlideReader
from dataloader.slides.tiff import TiffReader

__all__ = ["READERS", "Level", "Slide", "SlideError", "SlideReader", "open_slide", "read_mirrored"]

READERS: dict[str, Callable[[Path], SlideReader]] = {
    ".png": ImageReader,
    ".jpg": ImageReader,
    ".jpeg": ImageReader,
    ".bmp": ImageReader,
    ".webp": ImageReader,
    ".ppm": ImageReader,
    ".svs": TiffReader,
    ".tif": TiffReader,
    ".tiff": TiffReader,
}


def open_slide(path: str | Path, mpp: float | None = None) -> Slide:
    """Open a slide or an ordinary image.

    Args:
        path: a file with an extension of ``READERS``, in small or capital letters.
        mpp: µm to a level-0 pixel, in place of what the file says.

    Raises:
        FileNotFoundError: no such file.
        SlideError: a folder, an unknown extension, or a file that cannot be read.
        ValueError: ``mpp`` is not above 0.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path of the slide")
    if path.is_dir():
        raise SlideError(f"{path} is a folder, not a slide; give one of the files in it")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise SlideError(
            f"{path} ends in '{path.suffix}', which no reader knows; convert it to one of "
            f"{', '.join(READERS)}"
        )
    return Slide(reader(path), mpp)
