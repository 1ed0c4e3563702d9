"""Anyone's data: ``images/``, ``labels/`` with a label map an image and, with types, ``types/``; splits optional.

A label map is a .npy, a .png of 8 or 16 bits, a .tif or a .mat with ``inst_map``. Types are a ``types/<image>.csv``
with the columns ``id,type``, the type a number or a name, or a type map ``types/<image>.npy``; a .mat may hold
``type_map`` itself. The folders lie in the root, or in a folder for each split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataloader.annotations.base import AnnotatedImage, read_rgb, renumber
from dataloader.annotations.generic import check_class_names, check_mpp, index_pairs
from dataloader.annotations.maps import (
    check_map,
    check_types,
    load_mat,
    open_array,
    paint_types,
    read_label_image,
    read_table,
)
from dataloader.annotations.pairs import Pair

LABEL_SUFFIXES = (".npy", ".png", ".tif", ".tiff", ".mat")


class FolderAdapter:
    """Images with label maps and, where ``class_names`` is given, types.

    Args:
        root: folder that holds ``images`` and ``labels``, or a folder a split that does.
        mpp: µm/px of the images.
        class_names: names of the types, background first; empty for images without types.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
        ValueError: without ``mpp``, or for ``class_names`` that do not begin with background.
    """

    name = "folder"

    def __init__(self, root: str | Path, *, mpp: float = 0.0, class_names: Sequence[str] = ()) -> None:
        self._files = index_pairs(Path(root), "labels", LABEL_SUFFIXES)
        self.mpp = check_mpp(self.name, mpp)
        self.class_names = check_class_names(class_names)

    def list_splits(self) -> list[str]:
        """Return the folders that hold ``images``; ``All`` for the root."""
        return self._files.list_splits()

    def list_names(self, split: str) -> list[str]:
        """Return the names of a split's images; raises as ``PairIndex.list_names``."""
        return self._files.list_names(split)

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image, its nuclei renumbered to 1..K.

        Raises:
            FileNotFoundError: where the image, its labels or its types are missing.
            ValueError: for a file that is truncated, malformed, or does not fit the others.
        """
        pair = self._files.find(split, name)
        image = read_rgb(pair.image)
        values, type_map = _read_labels(pair.labels)
        label_map = check_map(f"{pair.labels}: label map", values, image.shape[:2])
        types = self._read_types(pair, label_map, type_map)
        return AnnotatedImage(name, image, renumber(label_map), types)

    def _read_types(
        self, pair: Pair, label_map: np.ndarray, type_map: np.ndarray | None
    ) -> np.ndarray | None:
        folder = pair.labels.parent.parent / "types"
        paths = [
            path
            for path in (folder / f"{pair.name}{suffix}" for suffix in (".csv", ".npy"))
            if path.is_file()
        ]
        sources = [str(path) for path in paths] + (
            [f"{pair.labels}: type_map"] if type_map is not None else []
        )
        if not self.class_names:
            if sources:
                raise ValueError(f"{sources[0]}: types without names; set data.class_names=[background,…]")
            return None
        if not sources:
            raise FileNotFoundError(
                f"{folder / pair.name}.csv: no types for image {pair.image.name}; add this file or a .npy map, or "
                "leave data.class_names empty"
            )
        if len(sources) > 1:
            raise ValueError(f"{sources[0]}: {sources[1]} gives types of the same image; remove either")
        if paths and paths[0].suffix == ".csv":
            types = paint_types(sources[0], label_map, self._read_csv(paths[0]))
        else:
            values = open_array(paths[0], "add it") if paths else type_map
            types = check_map(sources[0], np.asarray(values), label_map.shape)
        return check_types(sources[0], types, self.class_names)

    def _read_csv(self, path: Path) -> dict[int, int]:
        types: dict[int, int] = {}
        for row in read_table(path, ("id", "type")):
            if not row["id"].isdecimal() or int(row["id"]) in types:
                raise ValueError(
                    f"{path}: id {row['id']!r} stands twice or is no number from 0 up; mend the row"
                )
            if row["type"] not in self.class_names and not row["type"].isdecimal():
                raise ValueError(
                    f"{path}: type {row['type']!r} of id {row['id']} is neither a number nor one of class_names="
                    f"{list(self.class_names)}; rename it or add it to data.class_names"
                )
            is_number = row["type"] not in self.class_names
            types[int(row["id"])] = int(row["type"]) if is_number else self.class_names.index(row["type"])
        return types


def _read_labels(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the label map of a file and, from a .mat that has one, its type map."""
    if path.suffix.lower() == ".mat":
        content = load_mat(path, ("inst_map",), optional=("type_map",))
        return content["inst_map"], content.get("type_map")
    if path.suffix.lower() == ".npy":
        return open_array(path, "add it"), None
    return read_label_image(path), None
