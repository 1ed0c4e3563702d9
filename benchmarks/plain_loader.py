"""The published training loader, written out plainly: what `benchmarks.loader` compares ours with.

It does what Graham et al.'s published code does, where that does it, all of it in the worker: an int32 .npy file a
patch, a warp of all of it, then crop and flips, blur or noise, colours with OpenCV, targets one nucleus after
another. Their augmentation library's own time is left out: OpenCV and NumPy are called directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import ndimage
from skimage.morphology import remove_small_objects
from torch.utils.data import Dataset, get_worker_info

from dataloader.augment import crop_centre

SMALLEST_NUCLEUS = 30  # pixels of the output; smaller ones get no HV values
BOX_MARGIN = 2  # pixels around a nucleus's box
HUE_STEPS = 8  # of OpenCV's 180
BRIGHTNESS = 26  # grey levels
NOISE = 0.05 * 255  # grey levels, largest deviation


class PlainDataset(Dataset[dict[str, np.ndarray]]):
    """Patches of the published format, ready to be batched.

    Args:
        paths: .npy files, int32 (S, S, 5): RGB, label, type.
        input_size: side of the network's input in pixels.
        output_size: side of its output in pixels.
    """

    def __init__(self, paths: Sequence[Path], input_size: int, output_size: int) -> None:
        self.paths = paths
        self.input_size = input_size
        self.output_size = output_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return sample ``index`` modulo the length: ``image`` (H, W, 3) uint8 and the targets of its centre."""
        if get_worker_info() is not None:
            cv2.setNumThreads(0)
        generator = np.random.default_rng(index)
        image, maps = read(self.paths[index % len(self)])
        image, maps = warp(image, maps, self.input_size, generator)
        image = recolour(degrade(image, generator), generator)
        return {"image": image, **encode(maps[..., 0], maps[..., 1], self.output_size)}


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Move a batch as the published training step does, classes as int64."""
    moved = {name: values.to(device, non_blocking=True) for name, values in batch.items()}
    moved["image"] = moved["image"].permute(0, 3, 1, 2)
    return {**moved, **{name: moved[name].long() for name in ("nuclei", "types")}}


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a patch: (S, S, 3) uint8 RGB and (S, S, 2) int32 labels and types."""
    values = np.load(path)
    return values[..., :3].astype(np.uint8), values[..., 3:].astype(np.int32)


def warp(
    image: np.ndarray, maps: np.ndarray, input_size: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Warp all of a patch to the nearest pixel, cut its centre out, and flip it."""
    matrix = _draw_matrix(image.shape[0], generator)
    flips = generator.random(2) < 0.5
    warped = []
    for values in (image, maps):
        whole = cv2.warpAffine(values, matrix, values.shape[1::-1], flags=cv2.INTER_NEAREST)
        part = crop_centre(whole, input_size)
        for axis in np.flatnonzero(flips).tolist():
            part = np.flip(part, axis)
        warped.append(np.ascontiguousarray(part))
    return warped[0], warped[1]


def _draw_matrix(size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw scale, shear, rotation and shift about the patch's centre, (2, 3) float64."""
    scale_x, scale_y = generator.uniform(0.8, 1.2, 2)
    shear, rotation = np.deg2rad(generator.uniform((-5, -179), (5, 179)))
    shift = generator.uniform(-0.01, 0.01, 2) * size
    turned = [
        [np.cos(rotation), -np.sin(rotation + shear)],
        [np.sin(rotation), np.cos(rotation + shear)],
    ]
    linear = np.array(turned) @ np.diag([scale_x, scale_y])
    centre = np.full(2, (size - 1) / 2)
    return np.column_stack([linear, centre - linear @ centre + shift])


def degrade(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Blur, median-filter or add noise to (H, W, 3) uint8, one of the three."""
    kind = generator.integers(3)
    if kind == 0:
        height, width = 2 * generator.integers(3, size=2) + 1
        return cv2.GaussianBlur(image, (int(width), int(height)), 0, borderType=cv2.BORDER_REPLICATE)
    if kind == 1:
        return cv2.medianBlur(image, int(2 * generator.integers(3) + 1))
    shape = image.shape if generator.random() < 0.5 else (*image.shape[:2], 1)
    noise = generator.normal(0, generator.uniform(0, NOISE), shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def recolour(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Change hue, saturation, brightness and contrast of (H, W, 3) uint8 in a random order."""
    changes = (_change_hue, _change_saturation, _change_brightness, _change_contrast)
    for which in generator.permutation(len(changes)):
        image = changes[which](image, generator)
    return image


def _change_hue(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    steps = generator.uniform(-HUE_STEPS, HUE_STEPS)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = ((hsv[..., 0].astype(np.float64) + steps) % 180).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _change_saturation(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    share = 1 + generator.uniform(-0.2, 0.2)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return np.clip(image * share + grey * (1 - share), 0, 255).astype(np.uint8)


def _change_brightness(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.clip(image + generator.uniform(-BRIGHTNESS, BRIGHTNESS), 0, 255).astype(np.uint8)


def _change_contrast(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    factor = generator.uniform(0.75, 1.25)
    mean = image.mean(axis=(0, 1), keepdims=True)
    return np.clip(image * factor + mean * (1 - factor), 0, 255).astype(np.uint8)


def encode(label_map: np.ndarray, type_map: np.ndarray, output_size: int) -> dict[str, np.ndarray]:
    """Make the targets of the centre of an (H, W) patch: ``nuclei``, ``hv`` (h, w, 2) and ``types``."""
    label_map = number_pieces(label_map)
    shown = crop_centre(label_map, output_size)
    return {
        "nuclei": (shown > 0).astype(np.int32),
        "hv": crop_centre(encode_hv(label_map, shown), output_size).copy(),
        "types": crop_centre(type_map, output_size).copy(),
    }


def number_pieces(label_map: np.ndarray) -> np.ndarray:
    """Give every connected piece but the first of each nucleus an id of its own, one nucleus after another."""
    label_map = label_map.copy()
    highest = label_map.max()
    for nucleus in np.unique(label_map[label_map > 0]):
        pieces, _ = ndimage.label(label_map == nucleus)
        is_further = pieces > 1
        label_map[is_further] = pieces[is_further] + highest
        highest = label_map.max()
    return label_map


def encode_hv(label_map: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return (H, W, 2) float32 HV maps of the nuclei in ``shown``, as published, one after another."""
    hv = np.zeros((*label_map.shape, 2), np.float32)
    kept = remove_small_objects(shown, max_size=SMALLEST_NUCLEUS - 1)
    for nucleus in np.unique(kept[kept > 0]):
        mask = (label_map == nucleus).astype(np.uint8)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = rows[0] - BOX_MARGIN, columns[0] - BOX_MARGIN
        if top < 0 or left < 0:  # a negative index leaves an empty box: such a nucleus is skipped
            continue
        box = (slice(top, rows[-1] + 1 + BOX_MARGIN), slice(left, columns[-1] + 1 + BOX_MARGIN))
        inside = mask[box]
        centre_yx = [int(value + 0.5) for value in ndimage.center_of_mass(inside)]
        for channel, axis in enumerate((1, 0)):
            positions = np.arange(1, inside.shape[axis] + 1) - centre_yx[axis]
            offset = np.where(inside > 0, np.expand_dims(positions, 1 - axis), 0).astype(np.float32)
            if offset.min() < 0:
                offset[offset < 0] /= -offset.min()
            if offset.max() > 0:
                offset[offset > 0] /= offset.max()
            view = hv[box][..., channel]
            view[inside > 0] = offset[inside > 0]
    return hv
