"""What a report says, as plain data: evaluation fills it, the page and the tables show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from metrics.bootstrap import Estimate


@dataclass(frozen=True)
class ScoreGroup:
    """Scores that belong together.

    Attributes:
        title: such as "Segmentation".
        scores: estimate of each score, by name.
        note: how they are defined, in a sentence.
    """

    title: str
    scores: Mapping[str, Estimate]
    note: str = ""


@dataclass(frozen=True)
class ByGroup:
    """Scores of types, tissues or other groups of nuclei, a row each.

    Attributes:
        title: such as "Panoptic quality by type".
        rows: names of the groups.
        columns: names of the scores.
        cells: estimate by (row, column); one that is not there is left empty.
        note: how they are defined, in a sentence.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], Estimate]
    note: str = ""


@dataclass(frozen=True)
class ImageTable:
    """Scores of single images.

    Attributes:
        names: of the N images.
        columns: names of the S scores.
        values: (N, S) float64, nan where undefined.
    """

    names: Sequence[str]
    columns: Sequence[str]
    values: np.ndarray


@dataclass(frozen=True)
class Confusion:
    """Types of paired nuclei, and those without a partner.

    Attributes:
        names: of the S kinds of nuclei, the last one those without a partner.
        counts: (S, S) int64, rows true, columns predicted.
    """

    names: Sequence[str]
    counts: np.ndarray


@dataclass(frozen=True)
class Example:
    """An image with truth and prediction side by side.

    Attributes:
        name: of the image.
        score: its PQ.
        true: (h, w, 3) uint8 RGB, with the true nuclei outlined.
        predicted: the same place with the predicted ones.
    """

    name: str
    score: float
    true: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Report:
    """All that a page shows; what is empty or None is left out.

    Attributes:
        title: of the page.
        facts: where it comes from: data, predictions, settings, version; by name.
        groups: the summary.
        by_group: scores by type or tissue.
        images: scores of each image.
        confusion: of types.
        sizes: PQ by range of sizes, smallest first.
        counts: (N, 2) int64 true and predicted nuclei of each image of ``images``.
        best: examples, the best first.
        worst: examples, the worst first.
        remarks: what a reader has to know: pairs that are missing, images that failed.
        num_resamples: draws of images that the intervals are of; 0 where there are none.
    """

    title: str
    facts: Mapping[str, str]
    groups: Sequence[ScoreGroup]
    images: ImageTable
    by_group: Sequence[ByGroup] = ()
    confusion: Confusion | None = None
    sizes: Mapping[str, Estimate] = field(default_factory=dict)
    counts: np.ndarray | None = None
    best: Sequence[Example] = ()
    worst: Sequence[Example] = ()
    remarks: Sequence[str] = field(default_factory=tuple)
    num_resamples: int = 0
