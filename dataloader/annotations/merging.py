"""Fewer types than a data set has: each of its types counts as one of another list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataloader.annotations.base import AnnotatedImage, AnnotationAdapter, files_of


class MergedAdapter:
    """An adapter whose types are merged.

    Args:
        adapter: gives the images.
        merge_types: new type of each of its types, in order, background first; background stays 0.
        class_names: names of the new types, background first.

    Raises:
        ValueError: where the lists do not fit the adapter's types or each other.
    """

    def __init__(
        self, adapter: AnnotationAdapter, merge_types: Sequence[int], class_names: Sequence[str]
    ) -> None:
        old = adapter.class_names
        if len(merge_types) != len(old) or merge_types[0] != 0:
            raise ValueError(
                f"merge_types={list(merge_types)} must give 0 for background and a type for each other of: "
                f"{', '.join(old) or 'none, this data set has no types'}"
            )
        if not 0 <= min(merge_types) <= max(merge_types) < len(class_names):
            raise ValueError(
                f"merge_types={list(merge_types)} must lie within class_names={list(class_names)}; name every "
                "new type, background first"
            )
        self.name = adapter.name
        self.mpp = adapter.mpp
        self.class_names = tuple(class_names)
        self._adapter = adapter
        self._table = np.array(merge_types, np.uint8)

    def list_splits(self) -> list[str]:
        """Return the adapter's splits."""
        return self._adapter.list_splits()

    def list_names(self, split: str) -> list[str]:
        """Return the adapter's images of a split."""
        return self._adapter.list_names(split)

    def files(self, split: str, name: str) -> list[Path]:
        """Return the adapter's files of an image; none where it names none."""
        return files_of(self._adapter, split, name)

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image, its types merged."""
        image = self._adapter.read(split, name)
        return image if image.type_map is None else replace(image, type_map=self._table[image.type_map])
