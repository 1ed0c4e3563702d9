"""Lizard (Graham et al. 2021, ICCV workshops): colon images of many sizes at 0.5 µm/px, six types, three folds.

``Lizard_Images1/*.png`` and ``Lizard_Images2/*.png`` (any folder whose name holds "images"), ``Labels/*.mat`` with
``inst_map``, ``id``, ``class``, ``bbox`` and ``centroid``, and ``info.csv`` with ``Filename,Source,Split``, the folds.
The archives may lie in the root or in folders of their own, such as ``Lizard_Labels/Labels``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataloader.annotations.base import AnnotatedImage, read_rgb, renumber, sort_naturally
from dataloader.annotations.maps import check_map, check_types, load_mat, paint_types, read_table

CLASS_NAMES = ("background", "neutrophil", "epithelial", "lymphocyte", "plasma", "eosinophil", "connective")
REMEDY = "unpack the archives of images and labels as they were published"


class LizardAdapter:
    """The published folder of Lizard; its folds are the splits ``fold1``, ``fold2`` and ``fold3``.

    Args:
        root: folder that holds the unpacked archives.

    Raises:
        FileNotFoundError: where ``root`` is not a folder, or has no ``info.csv``.
        ValueError: for a malformed ``info.csv``.
    """

    name = "lizard"
    class_names: tuple[str, ...] = CLASS_NAMES
    mpp = 0.5

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder; give the one that holds Lizard's archives")
        tables = sorted(self.root.rglob("info.csv"))
        if not tables:
            raise FileNotFoundError(f"{self.root / 'info.csv'}: no such file; {REMEDY}")
        self._table_path = tables[0]
        self._splits: dict[str, list[str]] = {}
        for row in read_table(tables[0], ("filename", "split")):
            self._splits.setdefault(f"fold{row['split']}", []).append(Path(row["filename"]).stem)
        self._images = {
            path.stem: path for path in self.root.rglob("*.png") if "images" in path.parent.name.lower()
        }
        self._labels = {path.stem: path for path in self.root.rglob("*.mat") if path.parent.name == "Labels"}

    def list_splits(self) -> list[str]:
        """Return the folds that ``info.csv`` names."""
        return sort_naturally(list(self._splits))

    def list_names(self, split: str) -> list[str]:
        """Return the names of a fold's images.

        Raises:
            FileNotFoundError: where the fold is not known, or an image or its labels are missing.
        """
        if split not in self._splits:
            found = ", ".join(self.list_splits()) or "none"
            raise FileNotFoundError(f"{self._table_path}: no split {split!r}; splits found: {found}")
        for name in self._splits[split]:
            self._find(name)
        return sort_naturally(self._splits[split])

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image, its nuclei renumbered to 1..K.

        Raises:
            FileNotFoundError: where the fold has no such image, or its files are missing.
            ValueError: for a file that is truncated, malformed, or does not fit the other.
        """
        if name not in self._splits.get(split, ()):
            raise FileNotFoundError(
                f"{self._table_path}: no image {name!r} in {split!r}; list_names gives the names"
            )
        image_path, labels_path = self._find(name)
        image = read_rgb(image_path)
        content = load_mat(labels_path, ("inst_map", "id", "class"))
        label_map = check_map(f"{labels_path}: inst_map", content["inst_map"], image.shape[:2])
        ids, types = (
            check_map(f"{labels_path}: {key}", np.atleast_2d(content[key])) for key in ("id", "class")
        )
        if ids.size != types.size or len(np.unique(ids)) != ids.size:
            raise ValueError(
                f"{labels_path}: {ids.size} ids, {len(np.unique(ids))} of them different, and {types.size} classes; "
                "one class an id is needed, fetch the file again"
            )
        types = check_types(f"{labels_path}: class", types, CLASS_NAMES)
        type_of = dict(zip(ids.ravel().tolist(), types.ravel().tolist(), strict=True))
        type_map = paint_types(f"{labels_path}: id", label_map, type_of).astype(np.uint8)
        return AnnotatedImage(name, image, renumber(label_map), type_map)

    def _find(self, name: str) -> tuple[Path, Path]:
        for suffix, found in ((".png", self._images), (".mat", self._labels)):
            if name not in found:
                raise FileNotFoundError(
                    f"{self.root}: no {name}{suffix}, which {self._table_path.name} names; {REMEDY}"
                )
        return self._images[name], self._labels[name]
