"""CoNIC (Graham et al. 2021, arXiv 2111.14485): 256 x 256 px patches of Lizard at 0.5 µm/px, six types.

``images.npy`` (N, 256, 256, 3), ``labels.npy`` (N, 256, 256, 2) of ids and types, ``counts.csv`` with a column a
type (of the central 224 x 224 px, so they are not compared with the maps) and ``patch_info.csv``, which names the
patches after the image they were cut from. Both tables may be missing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataloader.annotations.base import AnnotatedImage, renumber
from dataloader.annotations.maps import check_map, check_types, open_array, read_table

CLASS_NAMES = ("background", "neutrophil", "epithelial", "lymphocyte", "plasma", "eosinophil", "connective")
SPLIT = "All"
REMEDY = "give the folder that holds images.npy and labels.npy of CoNIC"


class ConicAdapter:
    """The training patches of the CoNIC challenge, one split ``All``.

    Args:
        root: folder that holds ``images.npy`` and ``labels.npy``.

    Raises:
        FileNotFoundError: where one of the two is missing.
        ValueError: for a file that is truncated or does not fit the others.
    """

    name = "conic"
    class_names: tuple[str, ...] = CLASS_NAMES
    mpp = 0.5

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._images_path, self._labels_path = self.root / "images.npy", self.root / "labels.npy"
        self._images = open_array(self._images_path, REMEDY, memory_map=True)
        self._labels = open_array(self._labels_path, REMEDY, memory_map=True)
        if self._images.ndim != 4 or self._images.shape[3] != 3 or self._images.dtype != np.uint8:
            raise ValueError(
                f"{self._images_path}: {self._images.dtype} of shape {self._images.shape}; (N, H, W, 3) uint8 is "
                "needed, fetch the file again"
            )
        if self._labels.shape != (*self._images.shape[:3], 2):
            raise ValueError(
                f"{self._labels_path}: shape {self._labels.shape} for images of shape {self._images.shape}; "
                "(N, H, W, 2) is needed, fetch both files again"
            )
        self._check_counts()
        names = self._list_patches()
        self._index = {name: index for index, name in enumerate(names)}
        if len(self._index) < len(names):
            raise ValueError(f"{self.root / 'patch_info.csv'}: names a patch twice; fetch the file again")

    def list_splits(self) -> list[str]:
        """Return ``All``: the challenge published one set."""
        return [SPLIT]

    def list_names(self, split: str) -> list[str]:
        """Return the names of the patches, in the order of the files.

        Raises:
            FileNotFoundError: for another split than ``All``.
        """
        if split != SPLIT:
            raise FileNotFoundError(f"{self.root}: no split {split!r}; splits found: {SPLIT}")
        return list(self._index)

    def files(self, split: str, name: str) -> list[Path]:
        """Return the arrays, which hold all patches."""
        return [self._images_path, self._labels_path]

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one patch, its nuclei renumbered to 1..K.

        Raises:
            FileNotFoundError: where there is no such patch.
            ValueError: for ids or types that are not whole numbers from 0 up, or types without a name.
        """
        if name not in self.list_names(split):
            raise FileNotFoundError(
                f"{self._images_path}: no patch {name!r}; list_names({split!r}) gives the names"
            )
        index = self._index[name]
        what = f"{self._labels_path}: patch {index}"
        labels = np.asarray(self._labels[index])
        label_map = check_map(f"{what}: ids", labels[..., 0])
        types = check_types(f"{what}: types", check_map(f"{what}: types", labels[..., 1]), CLASS_NAMES)
        return AnnotatedImage(name, np.array(self._images[index]), renumber(label_map), types)

    def _check_counts(self) -> None:
        path = self.root / "counts.csv"
        if path.is_file():
            self._check_rows(path, len(read_table(path, CLASS_NAMES[1:])))

    def _list_patches(self) -> list[str]:
        path = self.root / "patch_info.csv"
        if not path.is_file():
            return [f"patch_{index}" for index in range(len(self._images))]
        names = [row["patch_info"] for row in read_table(path, ("patch_info",))]
        self._check_rows(path, len(names))
        return names

    def _check_rows(self, path: Path, num_rows: int) -> None:
        if num_rows != len(self._images):
            raise ValueError(
                f"{path}: {num_rows} rows for {len(self._images)} patches; take both from the same archive"
            )
