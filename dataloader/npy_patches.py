"""Folders of `.npy` patches as the published HoVer-Net cut them, read as a patch store is.

A file is one patch, ``(S, S, 4)`` or ``(S, S, 5)`` integers: RGB, the ids of nuclei and, of five, their types. What
the whole images would tell is lost: their stain cannot be normalised, and in validation a patch counts as an image.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from dataloader.annotations.base import AnnotatedImage
from dataloader.patches import Patch, PatchSettings, PatchStore
from dataloader.stain import StainStatistics
from dataloader.type_pixels import count_types

logger = logging.getLogger(__name__)

PUBLISHED_MPP = 0.25  # µm/px of the data sets that the published code was made for
RGB, LABEL, TYPE = slice(0, 3), 3, 4  # channels
CHANNELS = (4, 5)  # without and with types
MAX_TYPE = 255
MAX_GREY = 255


class NpyPatches:
    """Patches in single files, for reading; safe to hand to worker processes, forked or spawned.

    Args:
        path: folder of the files, or of one folder such as ``540x540_164x164`` that holds them.
        class_names: names of the types, background first; where empty, the types that occur are numbered, for
            which all files are read once.
        mpp: µm/px of the patches.

    Raises:
        FileNotFoundError: where there is no such folder.
        ValueError: where it holds no patches, patches of different shapes, or other arrays.
    """

    def __init__(
        self, path: str | Path, *, class_names: Sequence[str] = (), mpp: float = PUBLISHED_MPP
    ) -> None:
        self.path = Path(path)
        self.paths = find_npy_patches(self.path)
        if not self.paths:
            raise FileNotFoundError(f"{self.path}: holds no .npy patches; give the folder that does")
        self.mpp = mpp
        self.source_names = [file.stem for file in self.paths]
        side, _, channels = self._shape = _open(self.paths[0]).shape
        for file in self.paths[1:]:
            if (shape := _open(file).shape) != self._shape:
                raise ValueError(
                    f"{file} is {shape}, {self.paths[0].name} is {self._shape}; keep patches of one shape in a "
                    "folder"
                )
        self.source_sizes_yx = [(side, side)] * len(self.paths)
        self._has_types = channels == CHANNELS[1]
        self._given_names = tuple(class_names)
        if class_names and not self._has_types:
            logger.warning("%s: the patches have no types, class_names are not used", self.path)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_types(self) -> int | None:
        """Number of types, background included; None without types."""
        return len(self.class_names) or None

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the types, background first; empty without types."""
        if not self._has_types:
            return ()
        if self._given_names:
            return self._given_names
        logger.info("%s: looking for types in %d patches; data.class_names spares it", self.path, len(self))
        largest = max(int(_open(file)[..., TYPE].max()) for file in self.paths)
        if not 1 <= largest <= MAX_TYPE:
            raise ValueError(
                f"{self.path}: the largest type is {largest}, it must lie in 1..{MAX_TYPE}; remove the fifth "
                "channel to train without types"
            )
        return ("background", *(f"type {number}" for number in range(1, largest + 1)))

    @property
    def settings(self) -> PatchSettings:
        """What the patches have in common; the step that they were cut with is not known."""
        side = self._shape[0]
        return PatchSettings(side, side, "valid", self.mpp, self.class_names, adapter="npy")

    def read(self, index: int) -> Patch:
        """Read patch ``index`` of ``len(self)``.

        Raises:
            ValueError: for grey levels outside 0..255, negative ids, or types that have no name.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"patch {index} of {len(self)} in {self.path}")
        file = self.paths[index]
        values = np.array(_open(file))
        rgb, label_map = values[..., RGB], values[..., LABEL]
        _check_range(file, "grey level", rgb, MAX_GREY, "store RGB as 0..255")
        _check_range(file, "id of a nucleus", label_map, np.iinfo(np.int32).max, "number nuclei from 1")
        type_map = None
        if self._has_types:
            remedy = "name all types in data.class_names, background first"
            _check_range(file, "type", values[..., TYPE], len(self.class_names) - 1, remedy)
            type_map = values[..., TYPE].astype(np.uint8)
        return Patch(rgb.astype(np.uint8), label_map.astype(np.int32), type_map)

    def source_of(self, index: int) -> int:
        """Return the number, in ``source_names``, of patch ``index``: each patch is its own source."""
        return index

    def type_pixels(self) -> np.ndarray:
        """Return (P, T) int64 px of each type in each patch, for which all files are read; (P, 0) without types."""
        if not self.num_types:
            return np.zeros((len(self), 0), np.int64)
        maps = (np.asarray(self.read(index).type_map) for index in range(len(self)))
        return count_types(maps, self.num_types, self._shape[0])

    def read_source(self, number: int) -> AnnotatedImage:
        """Return patch ``number`` as an image; where a border was mirrored, so is what validation sees."""
        return AnnotatedImage(self.source_names[number], *self.read(number))

    def stain_statistics(self, method: str) -> list[StainStatistics]:
        """Refuse: the statistics of a stain are fitted on whole images, never on a lone patch.

        Raises:
            ValueError: always, with the remedy.
        """
        raise ValueError(
            f"{self.path} holds lone patches, on which '{method}' stain is not fitted: cut the images with "
            "extract_patches.py, or train with stain=none"
        )


def find_npy_patches(path: Path) -> list[Path]:
    """Return the `.npy` files of a folder, or of the one folder in it that has some; by name, none where none are."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; give the folder of .npy patches")
    found = {
        folder: sorted(folder.glob("*.npy")) for folder in (path, *sorted(path.iterdir())) if folder.is_dir()
    }
    if found[path]:
        return found[path]
    filled = [folder for folder, files in found.items() if files]
    if len(filled) > 1:
        names = ", ".join(folder.name for folder in filled)
        raise ValueError(
            f"{path}: several folders hold .npy patches ({names}); give one, such as {filled[0]}"
        )
    return found[filled[0]] if filled else []


def _open(file: Path) -> np.ndarray:
    """Map a patch into memory; (S, S, 4 or 5) integers."""
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file} is not a readable .npy file ({error}); copy or cut it again") from error
    is_patch = values.ndim == 3 and values.shape[0] == values.shape[1] and values.shape[2] in CHANNELS
    if not is_patch or values.dtype.kind not in "iu":
        raise ValueError(
            f"{file} is {values.shape} {values.dtype}; a patch is (S, S, 4) or (S, S, 5) integers: RGB, ids and "
            "perhaps types"
        )
    return values


def _check_range(file: Path, what: str, values: np.ndarray, largest: int, remedy: str) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > largest:
        wrong = low if low < 0 else high
        raise ValueError(f"{file} holds {what} {wrong}, outside 0..{largest}; {remedy}")


Patches = PatchStore | NpyPatches
