"""PNG of where nuclei were looked for, white on black, in the frame of the thumbnail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from run_utils.outputs.picture import read
from run_utils.outputs.result import SlideResult
from run_utils.outputs.thumb import THUMBNAIL_PX

__all__ = ["read", "write"]


def write(result: SlideResult, path: Path) -> None:
    """Write the tissue mask, 255 on tissue and 0 beside it; all 255 where the whole slide was looked at."""
    mask = result.tissue
    if mask is None:
        mask = np.ones(_shape(result), bool)
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(path, format="PNG")


def _shape(result: SlideResult) -> tuple[int, int]:
    """Return (height, width) of the thumbnail, or of the one that would be made."""
    if result.thumbnail is not None:
        return result.thumbnail.shape[0], result.thumbnail.shape[1]
    factor = -(-max(result.shape) // THUMBNAIL_PX)
    return -(-result.shape[0] // factor), -(-result.shape[1] // factor)
