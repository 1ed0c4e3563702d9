"""PanNuke (Gamper et al. 2019, 2020): folds of 256 x 256 px images at 0.25 µm/px from 19 tissues, five types.

A fold is ``fold1/images/fold1/images.npy`` (N, 256, 256, 3) and ``types.npy`` (N,) tissues beside
``fold1/masks/fold1/masks.npy`` (N, 256, 256, 6): nuclei of the five types and, last, background, which is not read.
The outer folder may also be called ``Fold 1`` or ``fold_1``, as in the archives.

Ids count within a channel: the same id in two channels is two nuclei. Where channels overlap, the later one lies
on top, as ``binarize`` of the authors' metrics (github.com/TissueImageAnalytics/PanNuke-metrics) has it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloader.annotations.base import AnnotatedImage, renumber, sort_naturally
from dataloader.annotations.maps import check_map, open_array

CLASS_NAMES = ("background", "neoplastic", "inflammatory", "connective", "dead", "epithelial")
NUM_CHANNELS = len(CLASS_NAMES)  # of masks.npy: a channel a type, and background
REMEDY = "unpack all files of the fold as they were published"


class _Fold(NamedTuple):
    images_path: Path
    masks_path: Path
    images: np.ndarray
    masks: np.ndarray
    tissues: np.ndarray


class PannukeAdapter:
    """The published folds of PanNuke; files are mapped into memory, and only the images that are read are loaded.

    Args:
        root: folder that holds the folds.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
    """

    name = "pannuke"
    class_names: tuple[str, ...] = CLASS_NAMES
    mpp = 0.25

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root}: no such folder; give the one that holds fold1, fold2 and fold3"
            )
        self._folds: dict[str, _Fold] = {}

    def list_splits(self) -> list[str]:
        """Return the folds that are there: ``fold1``, ``fold2``, ``fold3``."""
        return sort_naturally(list(self._find_folders()))

    def list_names(self, split: str) -> list[str]:
        """Return the names of a fold's images: fold and index, such as ``fold1_0``.

        Raises:
            FileNotFoundError: where the fold or one of its files is missing.
            ValueError: for a file that is truncated or does not fit the others.
        """
        return [f"{split}_{index}" for index in range(len(self._open(split).images))]

    def files(self, split: str, name: str) -> list[Path]:
        """Return the arrays of a fold, which hold all its images."""
        return list(_find_arrays(self._find_folders()[split], split))

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image, its tissue and its nuclei, renumbered to 1..K.

        Raises:
            FileNotFoundError: where the fold has no such image.
            ValueError: for pixels that are not 0..255, or ids that are not whole numbers from 0 up.
        """
        fold = self._open(split)
        prefix, _, index = name.rpartition("_")
        if prefix != split or not index.isdecimal() or int(index) >= len(fold.images):
            raise FileNotFoundError(
                f"{fold.images_path}: no image {name!r}; list_names({split!r}) gives the names"
            )
        what = f"image {index}"
        image = np.asarray(fold.images[int(index)])
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255):
            raise ValueError(f"{fold.images_path}: {what} has values outside 0..255; fetch the file again")
        label_map, type_map = stack_channels(f"{fold.masks_path}: {what}", fold.masks[int(index)])
        return AnnotatedImage(
            name, image.astype(np.uint8), label_map, type_map, str(fold.tissues[int(index)])
        )

    def _find_folders(self) -> dict[str, Path]:
        found = {}
        for path in self.root.iterdir():
            match = re.fullmatch(r"fold[ _]?(\d+)", path.name, flags=re.IGNORECASE)
            if match and path.is_dir():
                found[f"fold{match[1]}"] = path
        return found

    def _open(self, split: str) -> _Fold:
        if split not in self._folds:
            folders = self._find_folders()
            if split not in folders:
                raise FileNotFoundError(
                    f"{self.root / split}: no such fold; found: {', '.join(folders) or 'none'}"
                )
            self._folds[split] = _open_fold(folders[split], split)
        return self._folds[split]


def stack_channels(what: str, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn the channels of a mask into one label map and one type map.

    Args:
        what: file and image, for messages.
        mask: (H, W, 6) ids of the nuclei of a type in each channel but the last, which is background.

    Returns:
        label_map: (H, W) int32, 0 background, 1..K.
        type_map: (H, W) uint8.

    Raises:
        ValueError: for ids that are not whole numbers from 0 up.
    """
    label_map = np.zeros(mask.shape[:2], np.int64)
    type_map = np.zeros(mask.shape[:2], np.uint8)
    for channel in range(NUM_CHANNELS - 1):
        ids = check_map(f"{what}: channel {channel}", np.asarray(mask[..., channel]))
        numbers = renumber(ids)
        is_nucleus = ids > 0
        label_map[is_nucleus] = label_map.max(initial=0) + numbers[is_nucleus]
        type_map[is_nucleus] = channel + 1
    return renumber(label_map), type_map


def _find_arrays(folder: Path, split: str) -> tuple[Path, Path, Path]:
    """Return where a fold has its images, masks and tissues."""
    images = folder / "images" / split
    return images / "images.npy", folder / "masks" / split / "masks.npy", images / "types.npy"


def _open_fold(folder: Path, split: str) -> _Fold:
    images_path, masks_path, tissues_path = _find_arrays(folder, split)
    images, masks = (open_array(path, REMEDY, memory_map=True) for path in (images_path, masks_path))
    tissues = open_array(tissues_path, REMEDY)
    for path, values, channels in ((images_path, images, 3), (masks_path, masks, NUM_CHANNELS)):
        if values.ndim != 4 or values.shape[-1] != channels or values.dtype.kind not in "uif":
            raise ValueError(
                f"{path}: {values.dtype} of shape {values.shape}; (N, H, W, {channels}) numbers are needed, {REMEDY}"
            )
    if images.shape[:3] != masks.shape[:3] or tissues.shape != images.shape[:1]:
        raise ValueError(
            f"{masks_path}: masks of shape {masks.shape} and tissues {tissues.shape} for images {images.shape}; "
            f"they do not belong together, {REMEDY}"
        )
    return _Fold(images_path, masks_path, images, masks, tissues)
