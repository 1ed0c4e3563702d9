"""Label maps and type maps from files of any kind: what several adapters read, checked where it enters."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy.io import loadmat

from dataloader.annotations.base import DAMAGED

MAX_SHOWN = 5  # ids that a message names
MAP_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # Pillow's names of the images with one channel


def check_map(what: str, values: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Check a map of ids or types: (H, W) whole numbers from 0 up; float is accepted where it is whole.

    Args:
        what: file and name of the map, for the message.
        values: the map.
        shape: (H, W) of the image; None where it is not known.

    Returns:
        (H, W), the same values as whole numbers.

    Raises:
        ValueError: for anything else.
    """
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise ValueError(
            f"{what} is {values.dtype} of shape {values.shape}; an (H, W) map of numbers is needed"
        )
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.trunc(values)) or not np.isfinite(values).all():
            raise ValueError(
                f"{what} holds values that are not whole numbers; ids and types must be, mend the file"
            )
        values = values.astype(np.int64)
    if values.min(initial=0) < 0:
        raise ValueError(f"{what} holds {values.min()}; ids and types start at 0 (background), mend the file")
    if shape is not None and values.shape != shape:
        raise ValueError(
            f"{what} is {values.shape}, the image {shape}; both must have the same height and width, mend the pair"
        )
    return values


def check_types(what: str, types: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Check that types lie within the class list, and return them as uint8.

    Raises:
        ValueError: where a type has no name.
    """
    if types.max(initial=0) >= len(class_names):
        raise ValueError(
            f"{what} holds type {types.max()}, but the class list has 0..{len(class_names) - 1} "
            f"({', '.join(class_names)}); name every type, background first, or mend the file"
        )
    return types.astype(np.uint8)


def paint_types(what: str, label_map: np.ndarray, type_of: dict[int, int]) -> np.ndarray:
    """Give each pixel the type of its nucleus.

    Args:
        what: the table that the types come from, for the message.
        label_map: (H, W) whole numbers, 0 background.
        type_of: type of each id; ids that are not in the map are left over.

    Returns:
        (H, W) int64 types.

    Raises:
        ValueError: where the map has an id that the table lacks.
    """
    ids, positions = np.unique(label_map, return_inverse=True)
    missing = [int(i) for i in ids if i and int(i) not in type_of]
    if missing:
        raise ValueError(
            f"{what}: no type for {len(missing)} nuclei of the label map, ids {show(missing)}; add their rows"
        )
    types = np.array([type_of[int(i)] if i else 0 for i in ids], np.int64)
    return types[positions.reshape(label_map.shape)]


def show(values: Sequence[object]) -> str:
    """Return the first few of the values, as a message names them."""
    return ", ".join(map(str, values[:MAX_SHOWN])) + (", …" if len(values) > MAX_SHOWN else "")


def open_array(path: Path, remedy: str, *, memory_map: bool = False) -> np.ndarray:
    """Read a .npy file, or map it into memory so that only what is used is read.

    Raises:
        FileNotFoundError: where there is none; the message ends with the remedy.
        ValueError: for a truncated file, or one of pickled objects.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {remedy}")
    try:
        return np.asanyarray(np.load(path, mmap_mode="r" if memory_map else None, allow_pickle=False))
    except DAMAGED as error:
        hint = "; save numbers, not objects" if "allow_pickle" in str(error) else ""
        raise ValueError(
            f"{path}: not a whole .npy file ({error}){hint or '; fetch the file again'}"
        ) from error


def load_mat(path: Path, keys: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read variables of a MATLAB file.

    Raises:
        ValueError: for a truncated file, one of v7.3, or one that lacks a key.
    """
    try:
        content = loadmat(path, variable_names=[*keys, *optional])
    except NotImplementedError as error:
        raise ValueError(f"{path}: saved as MATLAB v7.3 (HDF5); save it anew with -v7") from error
    except DAMAGED as error:
        raise ValueError(f"{path}: not a whole .mat file ({error}); fetch the file again") from error
    for key in keys:
        if key not in content:
            raise ValueError(f"{path}: has no {key!r}; labels hold {', '.join(keys)}")
    return {key: content[key] for key in (*keys, *optional) if key in content}


def read_label_image(path: Path) -> np.ndarray:
    """Read a map of ids from an image file with one channel: PNG of 8 or 16 bits, TIFF of any depth.

    Returns:
        (H, W) of the file's dtype; the indices of a palette, not its colours.

    Raises:
        ValueError: for a truncated file, or one with colours.
    """
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return np.asarray(tifffile.imread(path)).squeeze()
        with Image.open(path) as image:
            mode = image.mode
            labels = np.asarray(image) if mode in MAP_MODES else None
    except DAMAGED as error:
        raise ValueError(f"{path}: not a whole image ({error}); fetch the file again") from error
    if labels is None:
        raise ValueError(
            f"{path}: pixels of mode {mode!r}; a label map has one channel of ids "
            "(for masks with a colour a type use data.adapter=colour_masks)"
        )
    return labels


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a csv file whose header names at least some columns, in any order and case.

    Returns:
        A row each: its text by column, in lower case.

    Raises:
        ValueError: where a column or a cell is missing, or the file is not UTF-8 text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a csv file ({error}); save it as UTF-8 text") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    for column in columns:
        if column not in header:
            raise ValueError(f"{path}: no column {column!r}; the first line must name: {', '.join(columns)}")
    table = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(
                f"{path}: line {number} has {len(row)} cells, the header {len(header)}; mend the file"
            )
        table.append({name: cell.strip() for name, cell in zip(header, row, strict=True)})
    return table
