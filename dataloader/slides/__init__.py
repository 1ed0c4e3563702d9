"""Slides and images under one call: ``open_slide`` picks the reader, by the file's extension or by name."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from dataloader.address import Address, locate
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

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
TIFF_EXTENSIONS = (".svs", ".tif", ".tiff")
VENDOR_EXTENSIONS = (".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi")

SEVERAL_FILES = (".mrxs", ".vms", ".vmu", ".dcm")  # what they name lies beside them

READERS: dict[str, tuple[str, ...]] = {  # by extension, in order of preference
    **dict.fromkeys(IMAGE_EXTENSIONS, ("image",)),
    **dict.fromkeys(TIFF_EXTENSIONS, ("tiff", "openslide")),
    **dict.fromkeys(VENDOR_EXTENSIONS, ("openslide",)),
}


def open_slide(path: str | Path | Address, mpp: float | None = None, reader: str = "auto") -> Slide:
    """Open a slide or an ordinary image.

    Of a TIFF at an address (`s3://bucket/slide.svs`, whatever fsspec knows) only what is looked at is fetched; files
    for other readers are copied into a temporary folder, which goes when the slide is closed.

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
        AddressError: an address did not give it.
        ValueError: ``mpp`` is not above 0, or an unknown reader.
    """
    if reader not in ("auto", *READER_NAMES):
        raise ValueError(f"reader={reader!r} is unknown; known readers: {', '.join(('auto', *READER_NAMES))}")
    path = locate(path)
    if isinstance(path, Address):
        return _open_address(path, mpp, reader)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path of the slide")
    if path.is_dir():
        raise SlideError(f"{path} is a folder, not a slide; give one of the files in it")
    return Slide(_open_first(path) if reader == "auto" else READER_NAMES[reader](path), mpp)


def _open_address(address: Address, mpp: float | None, reader: str) -> Slide:
    """Open a slide at an address, by ranges if it can be had so, else a copy of it."""
    ending = address.suffix.lower()
    if reader == "auto" and ending not in READERS:
        raise SlideError(
            f"{address} ends in '{ending}', which no reader knows; the endings are {', '.join(READERS)}"
        )
    is_tiff = reader == "tiff" or (reader == "auto" and "tiff" in READERS[ending])
    if not is_tiff:
        return _open_copy(address, mpp, reader, f"files for reader={reader} of '{ending}' are read whole")
    if not address.can_be_read_in_parts():
        return _open_copy(address, mpp, reader, "its server gives no parts of files")
    try:
        return Slide(TiffReader(address), mpp)
    except UnsupportedError as error:
        if reader == "tiff":
            raise
        return _open_copy(address, mpp, reader, str(error))


def _open_copy(address: Address, mpp: float | None, reader: str, reason: str) -> Slide:
    """Open a copy of a slide, in a temporary folder that goes when the slide is closed, or was not opened."""
    if address.suffix.lower() in SEVERAL_FILES:
        raise SlideError(f"{address} names other files beside it: copy them to a local folder, and give that")
    folder = tempfile.TemporaryDirectory(prefix="hovernet-slide-")
    copy = Path(folder.name) / address.name
    logger.info("%s is copied to %s: %s", address, folder.name, reason)
    try:
        address.download(copy)
        slide = open_slide(copy, mpp, reader)
    except SlideError as error:
        folder.cleanup()
        raise type(error)(str(error).replace(str(copy), str(address))) from error
    except BaseException:
        folder.cleanup()
        raise
    slide.stand_for(address, folder)
    return slide


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
            "or uv pip install -r pyproject.toml --extra wsi -c constraints.txt in the checkout"
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
