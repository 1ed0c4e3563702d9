"""The confusion matrix of nuclei paired by centroid, and the scores F_d, accuracy and F_c read off it.

Rows are true, columns predicted: types 0..T-1, then unlabelled (type -1), then unpaired. The scores are those of
``metrics.detection``; counted per image, they can be pooled over any draw of images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metrics.bootstrap import Label, Statistic, divide
from metrics.detection import TypedDetections

NUM_EXTRA = 2  # rows and columns beside the types: unlabelled, unpaired


def confusion_names(type_names: Sequence[str]) -> list[str]:
    """Return what the rows and the columns of a confusion matrix are of."""
    return [*type_names, "unlabelled", "unpaired"]


def count_confusion(image: TypedDetections, num_types: int) -> np.ndarray:
    """Return (T + 2, T + 2) int64: how many nuclei of each true and predicted type were paired, or alone.

    Args:
        image: types of one image, or of several pooled; all below ``num_types``.
        num_types: T, background counted.
    """
    side = num_types + NUM_EXTRA
    true = [image.paired_true, image.unpaired_true, np.full(len(image.unpaired_predicted), num_types + 1)]
    predicted = [
        image.paired_predicted,
        np.full(len(image.unpaired_true), num_types + 1),
        image.unpaired_predicted,
    ]
    rows, columns = (np.concatenate(types) for types in (true, predicted))
    rows, columns = (np.where(types < 0, num_types, types) for types in (rows, columns))
    return np.bincount(rows * side + columns, minlength=side**2).reshape(side, side)


def detection_statistic(confusions: np.ndarray, type_names: Sequence[str]) -> Statistic:
    """Return F_d, accuracy and F_c of each type from 1 up, from counts pooled over images.

    Args:
        confusions: (N, T + 2, T + 2) of each image.
        type_names: of the T types, background first.
    """
    num_types = len(type_names)

    def score(sums: np.ndarray) -> np.ndarray:
        return _pooled_scores(np.round(sums).reshape(-1, *confusions.shape[1:]), num_types)

    labels = [Label("F_d"), Label("accuracy"), *(Label("F_c", name) for name in type_names[1:])]
    return Statistic(labels, confusions.reshape(len(confusions), -1).astype(np.float64), score)


def _pooled_scores(counts: np.ndarray, num_types: int) -> np.ndarray:
    """Return (R, T + 1) scores of counts (R, T + 2, T + 2); see ``metrics.detection`` for their definitions."""
    paired = counts[:, :-1, :-1]
    missed, invented = counts[:, :-1, -1], counts[:, -1, :-1]
    num_pairs = paired.sum((1, 2))
    f_d = divide(2 * num_pairs, 2 * num_pairs + missed.sum(1) + invented.sum(1))
    right = np.einsum("rtt->rt", paired)[:, :num_types]
    accuracy = divide(right.sum(1), paired[:, :num_types].sum((1, 2)))
    fn = paired[:, :num_types].sum(2) - right
    fp = paired[:, :num_types, :num_types].sum(1) - right
    errors = 2 * (fp + fn) + missed[:, :num_types] + invented[:, :num_types]
    f_types = divide(2 * right, 2 * right + errors)[:, 1:]
    return np.concatenate([f_d[:, None], accuracy[:, None], f_types], axis=1)
