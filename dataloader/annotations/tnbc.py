"""TNBC (Naylor et al. 2018): 50 images of 512 x 512 px at 40x of 11 patients with triple negative breast cancer.

``Slide_01/01_1.png`` holds an image, ``GT_01/01_1.png`` its nuclei. The masks do not number the nuclei: a nucleus is
a connected region of one colour that is not black; regions that only meet at a corner are two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from skimage.measure import label

from dataloader.annotations.base import AnnotatedImage, read_rgb
from dataloader.annotations.pairs import ALL, Pair, PairIndex, find_files


class TnbcAdapter:
    """The unpacked archive of TNBC, all images in the split ``All``.

    Args:
        root: folder that holds ``Slide_01``, ``GT_01`` and so on.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
    """

    name = "tnbc"
    class_names: tuple[str, ...] = ()
    mpp = 0.25

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        self._files = PairIndex(root, "Slide_01, GT_01 and so on", _find_pairs(root))

    def list_splits(self) -> list[str]:
        """Return ``All``."""
        return self._files.list_splits()

    def list_names(self, split: str) -> list[str]:
        """Return the names of the images; raises as ``PairIndex.list_names``."""
        return self._files.list_names(split)

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image and its nuclei.

        Raises:
            FileNotFoundError: where the image or its mask is missing.
            ValueError: for a file that is truncated, or does not fit the other.
        """
        pair = self._files.find(split, name)
        image = read_rgb(pair.image)
        mask = read_rgb(pair.labels)
        if mask.shape != image.shape:
            raise ValueError(
                f"{pair.labels} is {mask.shape[:2]}, the image {image.shape[:2]}; both must have the same height "
                "and width, fetch the pair again"
            )
        colours = mask.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        return AnnotatedImage(name, image, label(colours, connectivity=1).astype(np.int32))


def _find_pairs(root: Path) -> Iterator[tuple[str, Pair]]:
    for folder in root.glob("Slide_*"):
        masks = root / re.sub("^Slide_", "GT_", folder.name)
        for image in find_files(folder, ".png"):
            yield ALL, Pair(image, masks / image.name)
