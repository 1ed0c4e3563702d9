"""Slides and images under one call: ``open_slide`` picks the reader, by the file's extension or by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dataloader.slides.image import ImageReader
from dataloader.slides.mirror import read_mirrored
from dataloader.slides.slide import (
    Level,
    Slide,
    SlideError,
    SlideReader,
    UnsupportedError,
)
from dataloader.slides.tiff import TiffReader

__all__ = [
    "IMAGE_EXTENSIONS",
    "READERS",
    "READER_NAMES",
    "Level",
    "Slide",
    "SlideError",
    "SlideReader",
    "UnsupportedError",
    "open_slide",
    "read_mirrored",
]

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
TIFF_EXTENSIONS = (".svs", ".tif", ".tiff")
VENDOR_EXTENSIONS = (".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi")

READERS: dict[str, tuple[str, ...]] = {  # by extension, in order of preference
    **dict.fromkeys(IMAGE_EXTENSIONS, ("image",)),
    **dict.fromkeys(TIFF_EXTENSIONS, ("tiff", "openslide")),
    **dict.fromkeys(VENDOR_EXTENSIONS, ("openslide",)),
}


def open_slide(path: str | Path, mpp: float | None = None, reader: str = "auto") -> Slide:
    """Open a slide or an ordinary image.

    Args:
        path: a file; its extension, in small or capital letters, is one of ``READERS`` where the reader is
            left open.
        mpp: µm to a level-0 pixel, in place of what the file says.
        reader: ``auto`` takes the first of ``READERS`` for the extension that reads this kind of file; else
            one of ``READER_NAMES``, whatever the extension.

    Raises:
        FileNotFoundError: no such file.
        SlideError: a folder, an unknown extension, a file that cannot be read, or a reader whose library is
            not installed.
        ValueError: ``mpp`` is not above 0, or an unknown reader.
    """
    if reader not in ("auto", *READER_NAMES):
        raise ValueError(f"reader={reader!r} is unknown; known readers: {', '.join(('auto', *READER_NAMES))}")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path of the slide")
    if path.is_dir():
        raise SlideError(f"{path} is a folder, not a slide; give one of the files in it")
    return Slide(_open_first(path) if reader == "auto" else READER_NAMES[reader](path), mpp)


def _open_first(path: Path) -> SlideReader:
    """Return the first reader for the extension that reads this kind of file; if none, raise what the first said."""
    names = READERS.get(path.suffix.lower())
    if names is None:
        raise SlideError(
            f"{path} ends in '{path.suffix}', which no reader knows; convert it to one of "
            f"{', '.join(READERS)}, or name a reader, e.g. reader=tiff"
        )
    first, *others = names
    try:
        return READER_NAMES[first](path)
    except UnsupportedError:
        for name in others:
            reader = _open_if_it_decodes(name, path)
            if reader is not None:
                return reader
        raise


def _open_if_it_decodes(name: str, path: Path) -> SlideReader | None:
    """Return a reader, None where it does not read this kind: OpenSlide opens some TIFFs that it cannot decode."""
    try:
        reader = READER_NAMES[name](path)
    except UnsupportedError:
        return None
    try:
        reader.read_level(0, (0, 0, 1, 1))
    except SlideError:
        reader.close()
        return None
    return reader


def _open_with_openslide(path: Path) -> SlideReader:
    try:
        from dataloader.slides.openslide import OpenSlideReader
    except (ImportError, OSError) as error:
        raise UnsupportedError(
            f"{path} needs OpenSlide, which is not installed: pip install openslide-python openslide-bin, "
            'or pip install -e ".[wsi]" in the checkout'
        ) from error
    return OpenSlideReader(path)


def _open_with_cucim(path: Path) -> SlideReader:
    try:
        from dataloader.slides.cucim import CuCimReader
    except (ImportError, OSError) as error:
        raise UnsupportedError(
            f"{path} needs cuCIM, which is not installed: pip install cucim-cu12 (or cucim-cu13), "
            "or leave the choice to reader=auto"
        ) from error
    return CuCimReader(path)


READER_NAMES: dict[str, Callable[[Path], SlideReader]] = {
    "image": ImageReader,
    "tiff": TiffReader,
    "openslide": _open_with_openslide,
    "cucim": _open_with_cucim,
}
