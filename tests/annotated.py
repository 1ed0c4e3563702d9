"""Small annotated images, and folders of them in CoNSeP's published layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from dataloader.annotations import AnnotatedImage


def make_annotated(
    name: str, shape: tuple[int, int] = (40, 50), *, seed: int = 0, num_types: int = 5
) -> AnnotatedImage:
    """Noise with square nuclei on a grid, their types in turn."""
    rng = np.random.default_rng(seed)
    label_map = np.zeros(shape, np.int32)
    corners = [(y, x) for y in range(1, shape[0] - 5, 8) for x in range(1, shape[1] - 5, 8)]
    for number, (y, x) in enumerate(corners, start=1):
        label_map[y : y + 5, x : x + 5] = number
    type_map = np.where(label_map > 0, 1 + label_map % (num_types - 1), 0).astype(np.uint8)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    return AnnotatedImage(name, image, label_map, type_map)


def write_consep(root: Path, split: str, images: Sequence[AnnotatedImage]) -> None:
    """Write images as CoNSeP does: `Images/*.png` beside `Labels/*.mat`."""
    for folder in ("Images", "Labels"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    for item in images:
        Image.fromarray(item.image).save(root / split / "Images" / f"{item.name}.png")
        maps = {"inst_map": item.label_map, "type_map": item.type_map}
        savemat(root / split / "Labels" / f"{item.name}.mat", maps, do_compression=True)
