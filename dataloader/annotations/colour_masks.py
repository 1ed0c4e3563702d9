"""Images with masks in which a colour is a type: ``images/`` beside ``masks/``, in the root or in each split.

The default colours are those of segmentation-wsi-hover_net's README, which gives them no names: black, taken for
background, yellow and red. Masks do not number the nuclei: a nucleus is a region of one colour, connected through
the sides of its pixels, so nuclei of one type that touch are one; give label maps (adapter ``folder``) where you can.

A pixel of a colour that is not in the table is taken for antialiasing where one of its eight neighbours has a colour
of the table: it gets that one of its neighbours' colours which is closest. Any other such pixel is refused, and so is
a mask with more than ``MAX_MIXED`` of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from skimage.measure import label

from dataloader.annotations.base import AnnotatedImage, read_rgb, renumber
from dataloader.annotations.generic import check_class_names, check_mpp, index_pairs

COLOURS = {"background": (0, 0, 0), "yellow": (255, 255, 0), "red": (255, 0, 0)}
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # no .jpg: it changes the colours
MAX_MIXED = 0.05  # share of a mask's pixels: a rim of one pixel around nuclei that cover a quarter of it


class ColourMasksAdapter:
    """Images with colour-coded masks.

    Args:
        root: folder that holds ``images`` and ``masks``, or a folder a split that does.
        mpp: µm/px of the images.
        colours: (red, green, blue) 0..255 of each type by its name; background is black unless it is given.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
        ValueError: without ``mpp``, or for colours that are no such table.
    """

    name = "colour_masks"

    def __init__(
        self, root: str | Path, *, mpp: float = 0.0, colours: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self._files = index_pairs(Path(root), "masks", MASK_SUFFIXES)
        self.mpp = check_mpp(self.name, mpp)
        table = _check_colours(dict(colours or COLOURS))
        self.class_names = check_class_names(tuple(table))
        self._colours = np.array(list(table.values()), np.int32)

    def list_splits(self) -> list[str]:
        """Return the folders that hold ``images``; ``All`` for the root."""
        return self._files.list_splits()

    def list_names(self, split: str) -> list[str]:
        """Return the names of a split's images; raises as ``PairIndex.list_names``."""
        return self._files.list_names(split)

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image, the types of its mask and their connected regions as nuclei.

        Raises:
            FileNotFoundError: where the image or its mask is missing.
            ValueError: for a file that is truncated, sizes that differ, or colours that are not in the table.
        """
        pair = self._files.find(split, name)
        image, mask = read_rgb(pair.image), read_rgb(pair.labels)
        if mask.shape != image.shape:
            raise ValueError(
                f"{pair.labels} is {mask.shape[:2]}, the image {image.shape[:2]}; both must have the same height "
                "and width, mend the pair"
            )
        type_map = _find_types(pair.labels, mask, self._colours)
        label_map = label(type_map, background=0, connectivity=1)
        return AnnotatedImage(name, image, renumber(label_map), type_map)


def _check_colours(colours: dict[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    table = {name: tuple(int(value) for value in colours[name]) for name in colours}
    table = {"background": table.pop("background", COLOURS["background"]), **table}
    for name, colour in table.items():
        if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
            raise ValueError(f"colours: {name}={list(colour)} must be [red, green, blue], each 0..255")
    if len(set(table.values())) < len(table):
        raise ValueError(f"colours={table} gives one colour to two types; choose another for either")
    return table


def _find_types(path: Path, mask: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return the (H, W) uint8 type of each pixel's colour; raises for colours that are not in the table."""
    keys, table = _pack(mask), _pack(colours)
    type_map = np.zeros(keys.shape, np.uint8)
    is_known = np.zeros(keys.shape, np.uint8)
    for number, key in enumerate(table):
        type_map[keys == key] = number
        is_known |= keys == key
    if is_known.all():
        return type_map
    square = np.ones((3, 3), np.uint8)
    is_mixed = is_known == 0
    is_alien = is_mixed & (cv2.dilate(is_known, square) == 0)
    if is_alien.any() or is_mixed.mean() > MAX_MIXED:
        _refuse(path, keys[is_alien if is_alien.any() else is_mixed], colours)
    distance = np.full((len(colours), np.count_nonzero(is_mixed)), np.inf)
    for number, colour in enumerate(colours):
        is_near = (
            cv2.dilate(((keys == table[number]) & (is_known > 0)).astype(np.uint8), square)[is_mixed] > 0
        )
        distance[number, is_near] = np.square(mask[is_mixed].astype(np.int32) - colour).sum(axis=1)[is_near]
    type_map[is_mixed] = distance.argmin(axis=0)
    return type_map


def _pack(colours: np.ndarray) -> np.ndarray:
    """Return one number a colour: (..., 3) to (...) int32."""
    values = colours.astype(np.int32)
    return values[..., 0] << 16 | values[..., 1] << 8 | values[..., 2]


def _refuse(path: Path, keys: np.ndarray, colours: np.ndarray) -> None:
    found, counts = np.unique(keys, return_counts=True)
    key = int(found[counts.argmax()])
    raise ValueError(
        f"{path}: {len(keys)} pixels have a colour that is not in the table, most of them "
        f"{[key >> 16, key >> 8 & 255, key & 255]}; add it to data.colours, which has {colours.tolist()}, or save the "
        "mask without antialiasing or loss"
    )
