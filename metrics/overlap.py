"""The one intersection table of a true and a predicted label map; every segmentation score is read off it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CELLS_PER_PIXEL = 16  # of the table, up to which counting all of it is faster than sorting the pixels


@dataclass(frozen=True)
class Overlap:
    """Which of K true nuclei shares how many pixels with which of L predicted ones, in P overlapping pairs.

    Attributes:
        true_ids: (K,) int64, ids of the true nuclei, ascending, above 0.
        predicted_ids: (L,) int64, ids of the predicted nuclei, ascending, above 0.
        true_areas: (K,) int64, pixels.
        predicted_areas: (L,) int64, pixels.
        rows: (P,) int64 in 0..K-1, ascending; the pair's place in ``true_ids``.
        columns: (P,) int64 in 0..L-1, ascending within a row; the pair's place in ``predicted_ids``.
        intersections: (P,) int64, pixels that both nuclei of the pair hold, at least 1.
    """

    true_ids: np.ndarray
    predicted_ids: np.ndarray
    true_areas: np.ndarray
    predicted_areas: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    intersections: np.ndarray

    @staticmethod
    def of(true: np.ndarray, predicted: np.ndarray) -> Overlap:
        """Count the table in one pass, linear in pixels, whatever the number of nuclei.

        Args:
            true: (H, W) integer label map, 0 background; ids may have gaps and reach the end of int64.
            predicted: (H, W) integer label map of the same image.

        Returns:
            The table; maps without nuclei, or without pixels, give empty arrays.

        Raises:
            ValueError: for maps that differ in shape, are not 2-D or not integer, or hold negative ids.
        """
        true, predicted = _checked(true, "true"), _checked(predicted, "predicted")
        if true.shape != predicted.shape:
            raise ValueError(
                f"true label map {true.shape} and predicted label map {predicted.shape} differ in shape; "
                "both must show the same image: crop or resize one (nearest neighbour)"
            )
        true_ids, true_areas, true_places = _count_nuclei(true)
        predicted_ids, predicted_areas, predicted_places = _count_nuclei(predicted)
        shared = (true_places >= 0) & (predicted_places >= 0)
        pairs, intersections = _count_pairs(
            true_places[shared], predicted_places[shared], (len(true_ids), len(predicted_ids))
        )
        rows, columns = np.divmod(pairs, max(len(predicted_ids), 1))
        return Overlap(
            true_ids=true_ids,
            predicted_ids=predicted_ids,
            true_areas=true_areas,
            predicted_areas=predicted_areas,
            rows=rows,
            columns=columns,
            intersections=intersections,
        )

    @property
    def is_empty(self) -> bool:
        """Whether neither map holds a nucleus, so that no score is defined."""
        return not len(self.true_ids) and not len(self.predicted_ids)

    @property
    def totals(self) -> np.ndarray:
        """(P,) int64, sum of the two areas of each pair, pixels."""
        return self.true_areas[self.rows] + self.predicted_areas[self.columns]

    @property
    def unions(self) -> np.ndarray:
        """(P,) int64, pixels that either nucleus of each pair holds."""
        return self.totals - self.intersections

    @property
    def ious(self) -> np.ndarray:
        """(P,) float64 in 0..1, intersection over union of each listed pair; of any other it is 0."""
        return self.intersections / self.unions


def _checked(label_map: np.ndarray, name: str) -> np.ndarray:
    label_map = np.asarray(label_map)
    if label_map.ndim != 2:
        raise ValueError(
            f"{name} label map has shape {label_map.shape}; it must be (H, W): pass one image, one channel"
        )
    if label_map.dtype.kind not in "iu":
        raise ValueError(
            f"{name} label map is {label_map.dtype}; ids must be integers: "
            "cast whole numbers with astype(int32), label the components of a mask first"
        )
    if label_map.size and label_map.min() < 0:
        raise ValueError(
            f"{name} label map holds id {label_map.min()}; ids start at 1, 0 is background: set it to 0"
        )
    if label_map.size and label_map.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"{name} label map holds id {label_map.max()}; ids must fit int64: renumber the nuclei"
        )
    return label_map.astype(np.int64, copy=False)


def _count_pairs(
    rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return which places of a table of ``shape`` pixels fall into, ascending and flat, and how many into each."""
    places = rows * shape[1] + columns
    # counting every cell would need memory for empty ones
    if shape[0] * shape[1] > CELLS_PER_PIXEL * len(places):
        return np.unique(places, return_counts=True)
    counts = np.bincount(places)
    pairs = np.flatnonzero(counts)
    return pairs, counts[pairs]


def _count_nuclei(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids (K,), areas (K,) and the (H, W) map of each pixel's place among the ids, or -1."""
    values = None
    # counting by id would need memory for every absent id
    if label_map.size and label_map.max() > label_map.size:
        values, places = np.unique(label_map, return_inverse=True)
        has_background = values[0] == 0
        label_map = places.reshape(label_map.shape) + (0 if has_background else 1)
        values = values if has_background else np.concatenate([[0], values])
    areas = np.bincount(label_map.ravel(), minlength=1)
    ids = 1 + np.flatnonzero(areas[1:])
    place_of_id = np.full(len(areas), -1)
    place_of_id[ids] = np.arange(len(ids))
    return ids if values is None else values[ids], areas[ids], place_of_id[label_map]
