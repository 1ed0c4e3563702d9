"""What a command is pointed at: the images of a folder or a list by name, and which of them are slides."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TypeVar

from PIL import Image

from dataloader.address import Address, locate
from dataloader.slides import IMAGE_EXTENSIONS, READERS, Slide, open_slide

logger = logging.getLogger(__name__)

Place = TypeVar("Place", Path, Address, Path | Address)

SLIDE_PIXELS = 2048**2  # level-0 px from which background is looked for, and µm/px has to be known
LISTS = (".txt", ".csv")
SLIDE_COLUMNS = ("slide", "path")


def find_images(place: str | Path | Address) -> dict[str, Path | Address]:
    """Return the images at a place by the name of their outputs: the stem, or the whole name where stems clash.

    Args:
        place: an image, a folder of images, or a list of them (`.txt`, one a line; `.csv`, with a column `slide` or
            `path`, and perhaps `name`), by its path or its address; an entry of a list that is neither absolute nor an
            address is beside the list. What a list names need not be there: it fails where it is opened.

    Raises:
        FileNotFoundError: where there is nothing, or a folder or list without images.
        ValueError: where two files would give outputs of one name, or a list is none.
    """
    place = locate(place)
    if place.suffix.lower() in LISTS:
        return _read_list(place)
    if isinstance(place, Address):
        return (
            {place.stem: place} if place.suffix.lower() in READERS else _name(_find_at_address(place), place)
        )
    return dict(find_local(place))


def find_local(path: Path) -> dict[str, Path]:
    """Return the image at a path, or those of a folder, as `find_images` does."""
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise FileNotFoundError(f"input {path} does not exist; give an image, a folder or a list of images")
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.suffix.lower() in READERS and entry.is_file()]
    _say_others([entry.name for entry in entries if entry not in files], path)
    return _name(files, path)


def is_slide(slide: Slide) -> bool:
    """Return whether a file is a scan, whose resolution must be known, not an ordinary or a small image."""
    height, width = slide.shape_level0
    is_ordinary = slide.path.suffix.lower() in IMAGE_EXTENSIONS
    return not is_ordinary and (len(slide.levels) > 1 or height * width >= SLIDE_PIXELS)


def read_header(path: Path, reader: str = "auto") -> tuple[tuple[int, int], float | None]:
    """Return the (H, W) of a file's level 0 and its µm/px, None where it does not say; errors as of `open_slide`."""
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        with path.open("rb") as file, Image.open(file) as image:  # not decoded, as a slide of it would be
            return (image.height, image.width), None
    with open_slide(path, reader=reader) as slide:
        return slide.shape_level0, slide.mpp


def _find_at_address(folder: Address) -> list[Address]:
    entries = [entry for entry in folder.files() if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.suffix.lower() in READERS]
    _say_others([entry.name for entry in entries if entry.suffix.lower() not in READERS], folder)
    return files


def _say_others(names: Sequence[str], folder: Path | Address) -> None:
    if names:
        listed = ", ".join(names[:5]) + " …" * (len(names) > 5)
        logger.info("%s: passed over, being no images: %s", folder, listed)


def _name(files: Sequence[Place], source: Path | Address) -> dict[str, Place]:
    """Return files by the names of their outputs."""
    if not files:
        raise FileNotFoundError(f"input {source} holds no image; known endings: {', '.join(READERS)}")
    stems = Counter(file.stem for file in files)
    names = [file.stem if stems[file.stem] == 1 else file.name for file in files]
    (name, number), *_ = Counter(names).most_common(1)
    if number > 1:
        raise ValueError(f"input {source}: {name} and another file give one name; rename one of them")
    return dict(zip(names, files, strict=True))


def _read_list(source: Path | Address) -> dict[str, Path | Address]:
    """Return the slides that a list names."""
    try:
        data = source.read() if isinstance(source, Address) else source.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"input {source} does not exist; give an image, a folder or a list"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"input {source} is no text in UTF-8 ({error}); save it as such") from error
    if source.suffix.lower() == ".txt":
        entries = dict.fromkeys(line.strip() for line in lines if line.strip())  # each once
        return _name([_beside(source, entry) for entry in entries], source)
    rows = csv.DictReader(line for line in lines if line.strip())
    column = next((name for name in SLIDE_COLUMNS if name in (rows.fieldnames or ())), None)
    if column is None:
        raise ValueError(f"input {source} has columns {rows.fieldnames}; one must be called slide (or path)")
    listed: list[tuple[str, Path | Address]] = []
    for number, row in enumerate(rows, 1):
        if not (row[column] or "").strip():
            raise ValueError(f"input {source}: row {number} below the headings names no {column}; fill it in")
        listed.append(((row.get("name") or "").strip(), _beside(source, row[column])))
    own = {name: place for name, place in listed if name}
    if len(own) < sum(bool(name) for name, _ in listed) or not all(map(_is_file_name, own)):
        raise ValueError(
            f"input {source}: each name must be there once, and be a file's name without folders"
        )
    others = [place for name, place in listed if not name]
    named = {**own, **(_name(others, source) if others or not own else {})}
    if len(named) < len(listed):
        raise ValueError(f"input {source}: a slide has the name that another is given; give each its own")
    return named


def _is_file_name(name: str) -> bool:
    return PurePath(name).name == name != ".."


def _beside(source: Path | Address, entry: str) -> Path | Address:
    """Return the place that an entry of a list means."""
    place = locate(entry.strip())
    if isinstance(place, Address) or place.is_absolute():
        return place
    return source.parent / entry.strip()
