"""The table of nuclei: what decoding gives, stitching joins and every writer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np


class NucleusType(NamedTuple):
    """A type of nucleus as people see it.

    Attributes:
        name: what it is called in tables and legends.
        colour: RGB, each 0..255.
    """

    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Nuclei:
    """K nuclei as a struct of arrays; row i of every array describes the same nucleus.

    Attributes:
        ids: (K,) int32, the nucleus's value in the label map, from 1.
        boxes_yxyx: (K, 4) int32, half-open boxes in pixels.
        centroids: (K, 2) float64, (y, x) in pixels; the mean of pixel coordinates.
        contour_points: (P, 2) int32, (y, x) vertices of every outer contour, one nucleus after another; not closed.
        contour_starts: (K + 1,) int64; contour i is ``contour_points[contour_starts[i]:contour_starts[i + 1]]``.
        types: (K,) int32 in 0..T-1, or None for a network without types.
        type_shares: (K,) float32 in 0..1, share of the nucleus's pixels that voted for its type, or None.
        type_probabilities: (K, T) float32, mean probability of each type over the nucleus's pixels, or None.
    """

    ids: np.ndarray
    boxes_yxyx: np.ndarray
    centroids: np.ndarray
    contour_points: np.ndarray
    contour_starts: np.ndarray
    types: np.ndarray | None = None
    type_shares: np.ndarray | None = None
    type_probabilities: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def contour(self, index: int) -> np.ndarray:
        """Return contour ``index`` as (P_i, 2) int32 (y, x) vertices, not closed; never empty."""
        return self.contour_points[self.contour_starts[index] : self.contour_starts[index + 1]]

    def select(self, keep: np.ndarray) -> Nuclei:
        """Return the nuclei that ``keep`` names, in its order.

        Args:
            keep: (K,) bool mask, or integer indices.
        """
        rows = np.flatnonzero(keep) if keep.dtype == bool else keep
        lengths = np.diff(self.contour_starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        points = self.contour_points[np.repeat(self.contour_starts[rows], lengths) + within]
        return Nuclei(
            ids=self.ids[rows],
            boxes_yxyx=self.boxes_yxyx[rows],
            centroids=self.centroids[rows],
            contour_points=points,
            contour_starts=starts,
            types=None if self.types is None else self.types[rows],
            type_shares=None if self.type_shares is None else self.type_shares[rows],
            type_probabilities=None if self.type_probabilities is None else self.type_probabilities[rows],
        )

    def shift(self, offset_yx: tuple[int, int]) -> Nuclei:
        """Return the same nuclei moved by whole pixels, as from a region's frame into its slide's."""
        offset = np.asarray(offset_yx, dtype=np.int32)
        return replace(
            self,
            boxes_yxyx=self.boxes_yxyx + np.tile(offset, 2),
            centroids=self.centroids + offset,
            contour_points=self.contour_points + offset,
        )

    def renumber(self, first: int = 1) -> Nuclei:
        """Return the same nuclei with the ids ``first``, ``first + 1``, …"""
        return replace(self, ids=np.arange(first, first + len(self), dtype=np.int32))

    @staticmethod
    def empty(num_types: int | None = None) -> Nuclei:
        """Return a table of no nuclei, with type columns if ``num_types`` (background counted) is given."""
        return Nuclei(
            ids=np.zeros(0, np.int32),
            boxes_yxyx=np.zeros((0, 4), np.int32),
            centroids=np.zeros((0, 2), np.float64),
            contour_points=np.zeros((0, 2), np.int32),
            contour_starts=np.zeros(1, np.int64),
            types=None if num_types is None else np.zeros(0, np.int32),
            type_shares=None if num_types is None else np.zeros(0, np.float32),
            type_probabilities=None if num_types is None else np.zeros((0, num_types), np.float32),
        )

    @staticmethod
    def concatenate(parts: Sequence[Nuclei]) -> Nuclei:
        """Join tables, ids as they stand; all parts have type columns or none has. No parts give an empty table."""
        if not parts:
            return Nuclei.empty()
        counts = np.concatenate([np.diff(part.contour_starts) for part in parts])

        def join(column: str) -> np.ndarray | None:
            arrays = [getattr(part, column) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays)

        return Nuclei(
            ids=np.concatenate([part.ids for part in parts]),
            boxes_yxyx=np.concatenate([part.boxes_yxyx for part in parts]),
            centroids=np.concatenate([part.centroids for part in parts]),
            contour_points=np.concatenate([part.contour_points for part in parts]),
            contour_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            types=join("types"),
            type_shares=join("type_shares"),
            type_probabilities=join("type_probabilities"),
        )
