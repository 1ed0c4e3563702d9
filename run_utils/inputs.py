"""What a command is pointed at: the images of a folder by name, and which of them are slides."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from dataloader.slides import IMAGE_EXTENSIONS, READERS, Slide

logger = logging.getLogger(__name__)

SLIDE_PIXELS = 2048**2  # level-0 px from which background is looked for, and µm/px has to be known


def find_images(path: Path) -> dict[str, Path]:
    """Return the images at a path by the name of their outputs: the stem, or the whole name where stems clash.

    Raises:
        FileNotFoundError: where there is nothing, or a folder without images.
        ValueError: where two files would give outputs of one name.
    """
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise FileNotFoundError(f"input {path} does not exist; give an image or a folder of images")
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.suffix.lower() in READERS and entry.is_file()]
    if not files:
        raise FileNotFoundError(f"input folder {path} holds no image; known endings: {', '.join(READERS)}")
    others = [entry.name for entry in entries if entry not in files]
    if others:
        logger.info(
            "%s: passed over, being no images: %s", path, ", ".join(others[:5]) + " …" * (len(others) > 5)
        )
    stems = Counter(file.stem for file in files)
    named = {file.stem if stems[file.stem] == 1 else file.name: file for file in files}
    if len(named) < len(files):
        lost = next(file for file in files if file not in named.values())
        raise ValueError(
            f"input folder {path}: {lost.name} and another file give one name; rename one of them"
        )
    return named


def is_slide(slide: Slide) -> bool:
    """Return whether a file is a scan, whose resolution must be known, not an ordinary or a small image."""
    height, width = slide.shape_level0
    is_ordinary = slide.path.suffix.lower() in IMAGE_EXTENSIONS
    return not is_ordinary and (len(slide.levels) > 1 or height * width >= SLIDE_PIXELS)
