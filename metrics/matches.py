"""Which nuclei of an image match, with their types: what scores per type, of sizes and of areas are counted from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metrics.detection import UNLABELLED
from metrics.overlap import Overlap

MATCH_IOU = 0.5  # pairs above it are unique by themselves (Kirillov et al. 2019)


@dataclass(frozen=True)
class Matches:
    """The K true and L predicted nuclei of one image and the M pairs whose IoU is above 0.5.

    Attributes:
        true_types: (K,) int64; 0 background, -1 unlabelled.
        predicted_types: (L,) int64.
        true_areas: (K,) int64, pixels.
        predicted_areas: (L,) int64, pixels.
        rows: (M,) int64 in 0..K-1, the pair's true nucleus.
        columns: (M,) int64 in 0..L-1, the pair's predicted nucleus.
        ious: (M,) float64.
    """

    true_types: np.ndarray
    predicted_types: np.ndarray
    true_areas: np.ndarray
    predicted_areas: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    ious: np.ndarray

    @staticmethod
    def of(
        o: Overlap, true_types: np.ndarray | None = None, predicted_types: np.ndarray | None = None
    ) -> Matches:
        """Read the matches off an overlap table.

        Args:
            o: overlap table of one image.
            true_types: (K,) integer in the order of ``o.true_ids``, -1 unlabelled; None for unlabelled ones.
            predicted_types: (L,) integer in the order of ``o.predicted_ids``; None for unlabelled ones.

        Raises:
            ValueError: for types that are not one a nucleus.
        """
        ious = o.ious
        is_match = ious > MATCH_IOU
        return Matches(
            true_types=_checked_types(true_types, len(o.true_ids), "true"),
            predicted_types=_checked_types(predicted_types, len(o.predicted_ids), "predicted"),
            true_areas=o.true_areas,
            predicted_areas=o.predicted_areas,
            rows=o.rows[is_match],
            columns=o.columns[is_match],
            ious=ious[is_match],
        )

    @property
    def pair_true_types(self) -> np.ndarray:
        """(M,) true type of each pair."""
        return self.true_types[self.rows]

    @property
    def pair_predicted_types(self) -> np.ndarray:
        """(M,) predicted type of each pair."""
        return self.predicted_types[self.columns]

    @property
    def area_differences(self) -> np.ndarray:
        """(M,) int64, predicted less true area of each pair, pixels."""
        return self.predicted_areas[self.columns] - self.true_areas[self.rows]


def _checked_types(types: np.ndarray | None, num_nuclei: int, name: str) -> np.ndarray:
    if types is None:
        return np.full(num_nuclei, UNLABELLED)
    if np.shape(types) != (num_nuclei,):
        raise ValueError(
            f"{name} types have shape {np.shape(types)} for {num_nuclei} nuclei; give one type per id, ascending"
        )
    return np.asarray(types, np.int64)
