"""The nuclei of one image as any file gives them, labelled, outlined or as points: what evaluation compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metrics.detection import UNLABELLED
from models.nuclei import Nuclei
from run_utils.outputs.rings import Outlines, contours_of, fill_contour

MAX_TYPE = 255  # type maps are uint8

Shape = tuple[int, int]


@dataclass(frozen=True)
class ImageNuclei:
    """K nuclei of one image; what a file does not hold is None.

    Attributes:
        source: the file, for messages.
        label_map: (H, W) integer, 0 background.
        draw: makes the label map of outlines for an (H, W), since their file does not know the image's size.
        extent: (H, W) that the image must have at least, going by its outlines; (0, 0) for others.
        canvas: (H, W) that shows its outlines whole, the size where no side has a label map; (0, 0) for ``extent``.
        ids: (K,) int64, ascending; None without types.
        types: (K,) int64; 0 background, -1 unlabelled.
        centroids: (K, 2) float64, (y, x) in pixels; None without types.
        tissue: of the image; "" where unknown.
    """

    source: str
    label_map: np.ndarray | None = None
    draw: Callable[[Shape], np.ndarray] | None = None
    extent: Shape = (0, 0)
    canvas: Shape = (0, 0)
    ids: np.ndarray | None = None
    types: np.ndarray | None = None
    centroids: np.ndarray | None = None
    tissue: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for a type that cannot be."""
        if self.types is not None:
            check_types(self.source, self.types)

    @property
    def has_pixels(self) -> bool:
        """Whether nuclei have shapes, and are not points alone."""
        return self.label_map is not None or self.draw is not None

    @staticmethod
    def of_table(nuclei: Nuclei, source: str) -> ImageNuclei:
        """Return a table of nuclei, drawn by their contours; an empty one has types, none of them missing.

        Raises:
            ValueError: for ids that are not above 0 or occur twice, or contours that leave the image.
        """
        contours = contours_of(nuclei)
        order = np.argsort(nuclei.ids, kind="stable")
        ids = nuclei.ids[order].astype(np.int64)
        if len(np.unique(ids)) < len(ids) or ids.min(initial=1) < 1:
            raise ValueError(f"{source}: ids must be above 0 and differ; number the nuclei from 1")
        low = contours.points.min(axis=0, initial=0)
        if low.min() < 0:
            raise ValueError(f"{source}: a contour reaches {low.tolist()} (y, x); none may leave the image")
        height, width = (contours.points.max(axis=0, initial=-1) + 1).tolist()
        types = nuclei.types if len(ids) else np.zeros(0, np.int64)
        return ImageNuclei(
            source,
            draw=lambda shape: draw_contours(contours, nuclei.ids, shape),
            extent=(height, width),
            ids=ids,
            types=None if types is None else types[order].astype(np.int64),
            centroids=nuclei.centroids[order],
        )


def label_maps_of(true: ImageNuclei, predicted: ImageNuclei) -> tuple[np.ndarray, np.ndarray]:
    """Return both label maps of one image; outlines are drawn at the size of the other side's label map.

    Where neither side says how large the image is, it is as large as the outlines need.

    Raises:
        ValueError: where the two are of different sizes.
    """
    sizes = [side.label_map.shape for side in (true, predicted) if side.label_map is not None]
    needed = [true.extent, true.canvas, predicted.extent, predicted.canvas]
    height, width = sizes[0] if sizes else np.max(needed, axis=0).tolist()
    maps = [_label_map(side, (height, width)) for side in (true, predicted)]
    if maps[0].shape != maps[1].shape:
        raise ValueError(
            f"{predicted.source}: true label map {maps[0].shape} and predicted label map {maps[1].shape} differ "
            "in shape; both must show the same image: crop or resize one (nearest neighbour)"
        )
    return maps[0], maps[1]


def check_types(source: str, types: np.ndarray) -> None:
    """Check the types in a file, an array of integers.

    Raises:
        ValueError: for one below -1, unlabelled, or above ``MAX_TYPE``; the message names the file.
    """
    low, high = int(types.min(initial=0)), int(types.max(initial=0))
    if low < UNLABELLED or high > MAX_TYPE:
        wrong = low if low < UNLABELLED else high
        raise ValueError(
            f"{source} holds type {wrong}; types are 0 (background) to {MAX_TYPE}, -1 unlabelled: mend the file"
        )


def types_of(nuclei: ImageNuclei, types: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return those of the ``types`` (K,) of an image's nuclei that belong to some of its ``ids`` (L,)."""
    assert nuclei.ids is not None, "typed nuclei have ids"
    return types[np.searchsorted(nuclei.ids, ids)]


def draw_contours(contours: Outlines, ids: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the (H, W) int64 label map of contours through pixel centres; of two nuclei the first keeps its pixels."""
    label_map = np.zeros(shape, np.int64)
    for index, nucleus in enumerate(ids.tolist()):
        mask, (top, left) = fill_contour(contours.points[contours.starts[index] : contours.starts[index + 1]])
        window = label_map[top : top + mask.shape[0], left : left + mask.shape[1]]
        np.copyto(window, nucleus, where=(mask > 0) & (window == 0))
    return label_map


def _label_map(side: ImageNuclei, shape: Shape) -> np.ndarray:
    if side.label_map is not None:
        return side.label_map
    if side.draw is None:
        raise ValueError(f"{side.source} holds points without outlines; evaluate it with mode=type")
    if side.extent[0] > shape[0] or side.extent[1] > shape[1]:
        raise ValueError(
            f"{side.source}: outlines reach {side.extent} (rows, columns), beyond the other side's image of "
            f"{shape}; both must show the same image at the same resolution"
        )
    return side.draw(shape)
