"""What inference hands to the writers, part by part, and what a written file gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import imagecodecs
import numpy as np

from models.nuclei import Nuclei, NucleusType

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class PackedLabels:
    """A label map, compressed: 1…K in a table's order, 0 background.

    Attributes:
        box_yxyx: half-open box that the map covers, in working-resolution pixels of the slide.
        is_wide: 32 bits a pixel instead of 16.
        data: the pixels, compressed with zstd.
    """

    box_yxyx: Box
    is_wide: bool
    data: bytes

    @staticmethod
    def pack(label_map: np.ndarray, origin_yx: tuple[int, int]) -> PackedLabels:
        """Compress a (h, w) label map of ids 1…K whose corner lies at ``origin_yx``; empty margins are cut off."""
        rows, columns = (np.flatnonzero(label_map.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return PackedLabels((*origin_yx, *origin_yx), False, b"")
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        inner = label_map[top:bottom, left:right]
        is_wide = int(inner.max()) > np.iinfo(np.uint16).max
        samples = np.ascontiguousarray(inner, np.int32 if is_wide else np.uint16)
        y, x = origin_yx
        box = (y + top, x + left, y + bottom, x + right)
        return PackedLabels(box, is_wide, imagecodecs.zstd_encode(samples.tobytes(), level=1))

    def unpack(self) -> np.ndarray:
        """Return the (h, w) int32 label map of the box."""
        top, left, bottom, right = self.box_yxyx
        if not self.data:
            return np.zeros((bottom - top, right - left), np.int32)
        samples = np.frombuffer(imagecodecs.zstd_decode(self.data), np.int32 if self.is_wide else np.uint16)
        return samples.reshape(bottom - top, right - left).astype(np.int32)


@dataclass(frozen=True)
class Part:
    """The nuclei that one region of a slide owns, and their pixels.

    Attributes:
        nuclei: in working-resolution pixels of the slide; ids rise by 1 from one nucleus, and part, to the next.
        labels: their pixels; value i stands for row i - 1 of `nuclei`.
        complete_to: row of the slide above which no later part has a pixel.
    """

    nuclei: Nuclei
    labels: PackedLabels
    complete_to: int

    def label_map(self) -> np.ndarray:
        """Return the (h, w) int32 label map of `labels.box_yxyx`: 0, and the nuclei's ids."""
        label_map = self.labels.unpack()
        if len(self.nuclei):
            np.add(label_map, self.nuclei.ids[0] - 1, out=label_map, where=label_map > 0)
        return label_map


@dataclass(frozen=True)
class SlideResult:
    """The nuclei of one slide or image, as every writer takes them: in parts, so that none holds them all.

    Attributes:
        name: what the outputs are called, without extension.
        shape: (H, W) at the working resolution.
        read: gives (h, w, 3) uint8 RGB of a half-open box of working pixels within the slide; thread-safe.
        parts: gives the parts from the first, each time it is called, region row by region row; an iterator
            may wait for parts that are still being predicted.
        mpp: µm to a working pixel, or None where unknown.
        level0_scale: level-0 pixels to a working pixel.
        types: what type 0..T-1 is called and its colour; None where the network has no types.
        thumbnail: (h, w, 3) uint8 RGB of the whole slide, or None.
        tissue: (h, w) bool of the whole slide, what was looked at, or None for all of it.
    """

    name: str
    shape: tuple[int, int]
    read: Callable[[Box], np.ndarray]
    parts: Callable[[], Iterator[Part]]
    mpp: float | None = None
    level0_scale: float = 1.0
    types: tuple[NucleusType, ...] | None = None
    thumbnail: np.ndarray | None = None
    tissue: np.ndarray | None = None

    def whole_label_map(self) -> np.ndarray:
        """Return the (H, W) int32 label map of all parts; only for what fits into memory."""
        label_map = np.zeros(self.shape, np.int32)
        for part in self.parts():
            paint_labels(label_map, part)
        return label_map

    def whole_nuclei(self) -> Nuclei:
        """Return all nuclei as one table; only for what fits into memory."""
        return Nuclei.concatenate([part.nuclei for part in self.parts()])


@dataclass(frozen=True)
class StoredResult:
    """What ``read`` finds in a file; None for what the format does not hold.

    Attributes:
        nuclei: in working-resolution pixels, as they were predicted.
        label_map: (H, W) int32, 0 background, 1..K nuclei.
        image: (h, w, 3) uint8 RGB, a picture of the result.
        mpp: µm to a working pixel.
        level0_scale: level-0 pixels to a working pixel.
        types: what type 0..T-1 is called and its colour.
    """

    nuclei: Nuclei | None = None
    label_map: np.ndarray | None = None
    image: np.ndarray | None = None
    mpp: float | None = None
    level0_scale: float | None = None
    types: tuple[NucleusType, ...] | None = None


def paint_labels(window: np.ndarray, part: Part, origin_yx: tuple[int, int] = (0, 0)) -> None:
    """Paint a part's nuclei into an int32 window of the slide, in place; what is painted already stays.

    Args:
        window: (h, w) int32, its corner at ``origin_yx``; what lies outside it is left out.
        part: what to paint.
        origin_yx: (y, x) of the window in the slide.
    """
    box = part.labels.box_yxyx
    low = [max(box[axis], origin_yx[axis]) for axis in (0, 1)]
    high = [min(box[axis + 2], origin_yx[axis] + window.shape[axis]) for axis in (0, 1)]
    if low[0] >= high[0] or low[1] >= high[1]:
        return
    source = tuple(slice(low[axis] - box[axis], high[axis] - box[axis]) for axis in (0, 1))
    target = window[
        tuple(slice(low[axis] - origin_yx[axis], high[axis] - origin_yx[axis]) for axis in (0, 1))
    ]
    labels = part.label_map()[source]
    np.copyto(target, labels, where=(labels > 0) & (target == 0))
