"""What every annotated data set gives: an image, its label map and its type map."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image
from scipy.io.matlab import MatReadError
from tifffile import TiffFileError

READABLE_MODES = ("RGB", "RGBA", "P", "L")  # Pillow's names of the 8-bit image kinds

# what the libraries raise for a damaged file; of a size that no memory holds, MemoryError
DAMAGED = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    OSError,
    EOFError,
    MatReadError,
    TiffFileError,
    Image.DecompressionBombError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its nuclei.

    Attributes:
        name: what the data set calls it, without a suffix.
        image: (H, W, 3) uint8 RGB.
        label_map: (H, W) int32, 0 background, 1..K nuclei.
        type_map: (H, W) uint8, an index into the data set's ``class_names``, or None where types are unknown.
            A nucleus may have pixels of several types.
        tissue: organ or tissue that the data set names, for scores by tissue; empty where it names none.
    """

    name: str
    image: np.ndarray
    label_map: np.ndarray
    type_map: np.ndarray | None = None
    tissue: str = ""


class IncompleteSplitError(FileNotFoundError):
    """Images of a split lack their labels.

    Attributes:
        names: of all images of the split, with and without labels; ``read`` tells which lack them.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


class AnnotationAdapter(Protocol):
    """A reader of one published layout.

    Attributes:
        name: key of the adapter in ``ADAPTERS``.
        class_names: names of the types; the index is the type id, 0 is background. Empty without types.
        mpp: µm/px of the images.
    """

    name: str
    class_names: tuple[str, ...]
    mpp: float

    def list_splits(self) -> list[str]:
        """Return the names of the splits that are there, in their natural order; a set without any has `All`."""

    def list_names(self, split: str) -> list[str]:
        """Return the names of a split's images, numbers in their natural order."""

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image with its nuclei."""


@runtime_checkable
class NamesFiles(Protocol):
    """An adapter whose files are not called like their images, and which therefore names them."""

    def files(self, split: str, name: str) -> list[Path]:
        """Return the files that hold an image and its nuclei, without reading them."""


def files_of(adapter: AnnotationAdapter, split: str, name: str) -> list[Path]:
    """Return the files that hold an image, as its adapter names them; none where it does not."""
    return adapter.files(split, name) if isinstance(adapter, NamesFiles) else []


def sort_naturally(names: list[str]) -> list[str]:
    """Sort so that ``train_2`` stands before ``train_10``."""
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])


def read_rgb(path: Path) -> np.ndarray:
    """Read an 8-bit image file.

    Returns:
        (H, W, 3) uint8 RGB; an alpha channel is dropped.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a truncated file, or one that is not an 8-bit image.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            pixels = np.asarray(image.convert("RGB")) if mode in READABLE_MODES else None
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise ValueError(f"{path}: not a whole image ({error}); fetch the file again") from error
    if pixels is None:
        raise ValueError(f"{path}: pixels of mode {mode!r}; an 8-bit RGB image is needed, convert the file")
    return pixels


def renumber(label_map: np.ndarray) -> np.ndarray:
    """Give the nuclei of a map the numbers 1..K in the order of their ids.

    Args:
        label_map: (H, W) whole numbers of any dtype, 0 background.

    Returns:
        (H, W) int32, 0 background, 1..K; all zeros where there is no nucleus.
    """
    ids, positions = np.unique(label_map, return_inverse=True)
    first = 0 if ids.size and ids[0] == 0 else 1
    return (positions.reshape(label_map.shape) + first).astype(np.int32)
