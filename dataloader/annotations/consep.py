"""CoNSeP (Graham et al. 2019): ``{Train,Test}/Images/*.png`` beside ``{Train,Test}/Labels/*.mat``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataloader.annotations.base import (
    AnnotatedImage,
    IncompleteSplitError,
    read_rgb,
    renumber,
    sort_naturally,
)
from dataloader.annotations.maps import check_map, load_mat

CLASS_NAMES = ("background", "miscellaneous", "inflammatory", "epithelial", "spindle-shaped")
# Raw types: 1 other, 2 inflammatory, 3 healthy and 4 malignant epithelial, 5 fibroblast, 6 muscle and
# 7 endothelial; merged as in Graham et al. 2019, section 4.1.
MERGED_TYPE = np.array([0, 1, 2, 3, 3, 4, 4, 4], dtype=np.uint8)
TYPES = ("auto", "merged", "raw")


class ConsepAdapter:
    """The published folder of CoNSeP, with its raw seven types or with the paper's four.

    Args:
        root: folder that holds ``Train`` and ``Test``.
        types: what the files hold: ``raw``, ``merged``, or ``auto``: raw if a type above 4 occurs anywhere in
            the split, since a single raw image may lack those types. A raw split without any needs ``raw``.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
        ValueError: for another value of ``types``.
    """

    name = "consep"
    class_names: tuple[str, ...] = CLASS_NAMES
    mpp = 0.25

    def __init__(self, root: str | Path, *, types: str = "auto") -> None:
        self.root = Path(root)
        if types not in TYPES:
            raise ValueError(f"types={types!r} is not known; use one of: {', '.join(TYPES)}")
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder; give the one that holds Train and Test")
        self._types = types
        self._split_is_raw: dict[str, bool] = {}

    def list_splits(self) -> list[str]:
        """Return the splits that have a folder of images."""
        return sort_naturally([path.parent.name for path in self.root.glob("*/Images")])

    def list_names(self, split: str) -> list[str]:
        """Return the names of a split's images, ``train_2`` before ``train_10``.

        Raises:
            FileNotFoundError: where the split has no folder, no image, or an image without labels.
        """
        folder = self.root / split / "Images"
        if not folder.is_dir():
            found = ", ".join(self.list_splits()) or "none"
            raise FileNotFoundError(f"{folder}: no such folder; splits found: {found}")
        names = self._list_images(split)
        if not names:
            raise FileNotFoundError(f"{folder}: no .png image; give the folder of CoNSeP as it was published")
        for name in names:
            try:
                self._find_labels(split, name)
            except FileNotFoundError as error:
                raise IncompleteSplitError(str(error), names) from error
        return names

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image, its nuclei renumbered to 1..K and its types merged to ``class_names``.

        Raises:
            FileNotFoundError: where the image or its labels are missing.
            ValueError: for a file that is truncated, malformed, or does not fit the other.
        """
        image_path = self.root / split / "Images" / f"{name}.png"
        if not image_path.is_file():
            raise FileNotFoundError(f"{image_path}: no such file; list_names({split!r}) gives the names")
        image = read_rgb(image_path)
        labels_path = self._find_labels(split, name)
        maps = load_mat(labels_path, ("inst_map", "type_map"))
        for key in maps:
            maps[key] = check_map(f"{labels_path}: {key}", maps[key], image.shape[:2])
        type_map = self._merge_types(split, labels_path, maps["type_map"])
        return AnnotatedImage(name, image, renumber(maps["inst_map"]), type_map)

    def _list_images(self, split: str) -> list[str]:
        return sort_naturally([path.stem for path in (self.root / split / "Images").glob("*.png")])

    def _find_labels(self, split: str, name: str) -> Path:
        path = self.root / split / "Labels" / f"{name}.mat"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no labels for image {name}.png; add the file or remove the image"
            )
        return path

    def _merge_types(self, split: str, path: Path, type_map: np.ndarray) -> np.ndarray:
        is_beyond = bool(type_map.max(initial=0) >= len(MERGED_TYPE))  # of either list: tells neither
        is_raw = self._is_raw(split) or (self._types == "auto" and is_beyond)
        kind, largest = ("raw", len(MERGED_TYPE) - 1) if is_raw else ("merged", len(CLASS_NAMES) - 1)
        if type_map.max(initial=0) > largest:
            raise ValueError(
                f"{path}: type_map holds type {type_map.max()}, but types={kind} has 0..{largest}; "
                + ("mend the file" if is_raw else "set data.types=raw or auto")
            )
        types = type_map.astype(np.uint8)
        return MERGED_TYPE[types] if is_raw else types

    def _is_raw(self, split: str) -> bool:
        if self._types != "auto":
            return self._types == "raw"
        if split not in self._split_is_raw:
            labels = self.root / split / "Labels"
            largest = [_find_largest_type(labels / f"{name}.mat") for name in self._list_images(split)]
            self._split_is_raw[split] = any(len(CLASS_NAMES) <= value < len(MERGED_TYPE) for value in largest)
        return self._split_is_raw[split]


def _find_largest_type(path: Path) -> int:
    """Return the largest type of a file; 0 for one that cannot be read, of which reading its image will tell."""
    try:
        type_map = check_map(f"{path}: type_map", load_mat(path, ("type_map",))["type_map"])
    except (OSError, ValueError):
        return 0
    return int(type_map.max(initial=0))
