"""What each slide of a cohort costs, roughly and at once: its pixels, from its header, or at an address its size."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataloader.address import Address
from run_utils.inputs import read_header

logger = logging.getLogger(__name__)

PIXELS_PER_BYTE = 3.4  # of level 0, in a file: as the sample has it
NUM_THREADS = 16  # headers wait for disks and networks, not for a CPU


def estimate_costs(files: Mapping[str, Path | Address], reader: str = "auto") -> dict[str, float]:
    """Return the level-0 megapixels of each slide by name; 0 where its header cannot be read.

    Such a slide comes last, and fails where it is tried.

    Args:
        files: slides by name.
        reader: of slides.
    """
    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="header") as threads:
        sizes = threads.map(lambda path: _megapixels(path, reader), files.values())
        return dict(zip(files, sizes, strict=True))


def _megapixels(path: Path | Address, reader: str) -> float:
    try:
        # its size is one request; its header would be five, or a copy of the whole
        if isinstance(path, Address):
            return float(path.identify()["bytes"]) * PIXELS_PER_BYTE / 1e6
        (height, width), _ = read_header(path, reader)
    except Exception as error:  # the run moves on: it is said again, and counted, where the slide is tried
        logger.warning("%s: its size cannot be read: %s", path, error)
        return 0.0
    return height * width / 1e6
