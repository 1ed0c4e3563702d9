"""QuPath's GeoJSON: ``images/`` beside ``geojson/<image>.geojson``, in the root or in each split.

The file is what QuPath 0.2 and later export ("Export as GeoJSON"): a FeatureCollection, or a list of features, in
pixels of the full image. Each feature is one nucleus, a MultiPolygon too, read as in ``qupath``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataloader.annotations.base import AnnotatedImage, read_rgb, renumber
from dataloader.annotations.generic import check_class_names, check_mpp, index_pairs
from dataloader.annotations.polygons import Polygon, draw_polygons
from dataloader.annotations.qupath import class_of, load_features, polygons_of

SUFFIXES = (".geojson", ".json")


class GeojsonAdapter:
    """Images with nuclei outlined in QuPath.

    Args:
        root: folder that holds ``images`` and ``geojson``, or a folder a split that does.
        mpp: µm/px of the images.
        class_names: names of QuPath's classifications, background first; empty for images without types.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
        ValueError: without ``mpp``, or for ``class_names`` that do not begin with background.
    """

    name = "geojson"

    def __init__(self, root: str | Path, *, mpp: float = 0.0, class_names: Sequence[str] = ()) -> None:
        self._files = index_pairs(Path(root), "geojson", SUFFIXES)
        self.mpp = check_mpp(self.name, mpp)
        self.class_names = check_class_names(class_names)

    def list_splits(self) -> list[str]:
        """Return the folders that hold ``images``; ``All`` for the root."""
        return self._files.list_splits()

    def list_names(self, split: str) -> list[str]:
        """Return the names of a split's images; raises as ``PairIndex.list_names``."""
        return self._files.list_names(split)

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image and its nuclei; where they overlap, the later feature lies on top.

        Raises:
            FileNotFoundError: where the image or its GeoJSON is missing.
            ValueError: for a truncated file, a feature that is no polygon, or a type that has no name.
        """
        pair = self._files.find(split, name)
        image = read_rgb(pair.image)
        nuclei: list[list[Polygon]] = []
        types: list[int] = []
        names: list[str] = []
        for index, feature in enumerate(load_features(pair.labels)):
            names.append(f"feature {index}")
            what = f"{pair.labels}: {names[-1]}"
            nuclei.append(polygons_of(what, feature))
            types.append(self._find_type(what, feature))
        numbers = draw_polygons(nuclei, image.shape[:2], names=names, source=str(pair.labels))
        type_map = np.array([0, *types], np.uint8)[numbers] if self.class_names else None
        return AnnotatedImage(name, image, renumber(numbers), type_map)

    def _find_type(self, what: str, feature: dict[str, Any]) -> int:
        found = class_of(what, feature)
        if not self.class_names:
            if found:
                raise ValueError(f"{what} is a {found!r}; set data.class_names=[background,{found},…]")
            return 0
        if not found:
            raise ValueError(
                f"{what} has no classification; give it one in QuPath, or leave data.class_names empty"
            )
        if found not in self.class_names[1:]:
            raise ValueError(
                f"{what} is a {found!r}, which data.class_names={list(self.class_names)} lacks; add it, or give it "
                "another classification in QuPath"
            )
        return self.class_names.index(found)
