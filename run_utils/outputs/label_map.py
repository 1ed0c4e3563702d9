"""NumPy file: the label map alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from run_utils.outputs.result import SlideResult, StoredResult


def write(result: SlideResult, path: Path) -> None:
    """Write the label map, (H, W) int32, 0 background, 1..K nuclei."""
    with path.open("wb") as file:
        np.save(file, result.whole_label_map(), allow_pickle=False)


def read(path: Path) -> StoredResult:
    """Read the label map."""
    return StoredResult(label_map=np.load(path, allow_pickle=False))
