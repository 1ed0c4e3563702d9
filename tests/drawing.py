"""Synthetic tissue for tests: touching ellipses as label maps, and data sets in the published layout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dataloader.annotations import AnnotatedImage
from tests.annotated import write_consep


def draw_pairs(shape: tuple[int, int], *, pitch: int = 48, seed: int = 0) -> np.ndarray:
    """Return an (H, W) int32 label map of pairs of touching ellipses on a jittered grid; pairs stay apart."""
    generator = np.random.default_rng(seed)
    label_map = np.zeros(shape, np.int32)
    number = 0
    for y in range(pitch // 2, shape[0], pitch):
        for x in range(pitch // 2, shape[1], pitch):
            dy, dx = generator.integers(-3, 4, 2)
            for side in (-1, 1):
                number += 1
                axes = tuple(int(n) for n in generator.integers(6, 9, 2))
                centre = (int(x + dx + side * 7), int(y + dy))
                mask = np.zeros(shape, np.uint8)
                cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
                label_map[(mask > 0) & (label_map == 0)] = number
    return label_map


def paint_tissue(label_map: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return an (H, W, 3) uint8 RGB image: dark blue nuclei of the label map on noisy pink."""
    generator = np.random.default_rng(seed)
    image = np.where(label_map[..., None] > 0, (90, 60, 140), (235, 190, 215)).astype(np.float64)
    image += generator.normal(0, 6, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_tissue(root: Path, *, num_train: int = 3, num_test: int = 2, side: int = 160) -> Path:
    """Write drawn images in CoNSeP's published layout, types already merged, and return the folder."""
    for split, count in (("Train", num_train), ("Test", num_test)):
        images = []
        for number in range(1, count + 1):
            seed = number if split == "Train" else number + num_train  # no image is in both
            label_map = draw_pairs((side, side), seed=seed)
            type_map = np.where(label_map > 0, 1 + label_map % 4, 0).astype(np.uint8)
            image = paint_tissue(label_map, seed=seed)
            images.append(AnnotatedImage(f"{split.lower()}_{number}", image, label_map, type_map))
        write_consep(root, split, images)
    return root
