"""PanNuke's layout, written by the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from dataloader.annotations import AnnotatedImage
from tests.annotated import make_annotated
from tests.published.base import Published

SHAPE = (48, 48)


def publish_pannuke(root: Path) -> Published:
    """Write two folds of the three."""
    images = {}
    for split, num_images in (("fold1", 12), ("fold3", 2)):
        annotated = [
            replace(
                make_annotated(f"{split}_{index}", SHAPE, seed=index, num_types=6),
                tissue=("Breast", "Adrenal_gland", "Bile-duct")[index % 3],
            )
            for index in range(num_images)
        ]
        folder = root / (split if split == "fold1" else "Fold 3")  # both spellings are around
        write_fold(folder, split, annotated)
        images[split] = annotated
    files = (
        root / "fold1" / "images" / "fold1" / "images.npy",
        root / "fold1" / "images" / "fold1" / "types.npy",
        root / "fold1" / "masks" / "fold1" / "masks.npy",
    )
    return Published(images, files=files)


def write_fold(folder: Path, split: str, images: list[AnnotatedImage]) -> None:
    """Write a fold in float64, as it was published: ids count anew in each channel, background is the last."""
    for kind in ("images", "masks"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    masks = np.zeros((len(images), *images[0].label_map.shape, 6))
    for mask, item in zip(masks, images, strict=True):
        for channel in range(5):
            ids = np.where(item.type_map == channel + 1, item.label_map, 0)
            mask[..., channel] = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
        mask[..., 5] = item.label_map == 0
    np.save(folder / "images" / split / "images.npy", np.stack([item.image for item in images]).astype(float))
    np.save(folder / "images" / split / "types.npy", np.array([item.tissue for item in images]))
    np.save(folder / "masks" / split / "masks.npy", masks)
