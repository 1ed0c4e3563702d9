"""What a prediction hands to the writers, and what a written file gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.nuclei import Nuclei, NucleusType


@dataclass(frozen=True)
class ImageResult:
    """The nuclei of one image, as every writer takes them.

    Attributes:
        name: what the outputs are called, without extension.
        source_path: the file that was read.
        image: (H, W, 3) uint8 RGB at the working resolution.
        label_map: (H, W) int32, 0 background, 1..K nuclei.
        nuclei: K nuclei in working-resolution pixels; their ids are the label map's values.
        mpp: µm to a working pixel, or None where unknown.
        level0_scale: level-0 pixels to a working pixel.
        types: what type 0..T-1 is called and its colour; None where the network has no types.
    """

    name: str
    source_path: Path
    image: np.ndarray
    label_map: np.ndarray
    nuclei: Nuclei
    mpp: float | None = None
    level0_scale: float = 1.0
    types: tuple[NucleusType, ...] | None = None


@dataclass(frozen=True)
class StoredResult:
    """What ``read`` finds in a file; None for what the format does not hold.

    Attributes:
        nuclei: in working-resolution pixels, as they were predicted.
        label_map: (H, W) int32, 0 background, 1..K nuclei.
        image: (h, w, 3) uint8 RGB, a picture of the result.
        mpp: µm to a working pixel.
        level0_scale: level-0 pixels to a working pixel.
        types: what type 0..T-1 is called and its colour.
    """

    nuclei: Nuclei | None = None
    label_map: np.ndarray | None = None
    image: np.ndarray | None = None
    mpp: float | None = None
    level0_scale: float | None = None
    types: tuple[NucleusType, ...] | None = None
