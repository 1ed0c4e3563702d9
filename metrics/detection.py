"""Detection and classification scores: nuclei are paired by centroid, counts are pooled over the data set.

Definitions of Graham et al. 2019 as the published code computes them: F_c weighs its errors [2, 2, 1, 1],
and its true negatives are 0, because only pairs in which either nucleus is of type c enter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

UNLABELLED = -1  # a true nucleus that nobody gave a type: it counts for detection, and for no type
REFERENCE_MPP = 0.25  # µm/px of the published radius
RADIUS = 12.0  # pixels at 40x (0.25 µm/px), 3 µm; the published pairing distance. Halve it at 20x


class Pairing(NamedTuple):
    """Who was paired with whom, as indices into the two lists of centroids.

    Attributes:
        pairs: (P, 2) int64, (true, predicted), ascending in true.
        unpaired_true: (K - P,) int64, ascending.
        unpaired_predicted: (L - P,) int64, ascending.
    """

    pairs: np.ndarray
    unpaired_true: np.ndarray
    unpaired_predicted: np.ndarray


@dataclass(frozen=True)
class TypedDetections:
    """Types of the nuclei of one image, P paired and the rest alone; type 0 is background, -1 unlabelled.

    Attributes:
        paired_true: (P,) int64, true type of each pair.
        paired_predicted: (P,) int64, predicted type of each pair.
        unpaired_true: (U,) int64, types of the true nuclei that were missed.
        unpaired_predicted: (V,) int64, types of the predicted nuclei that match none.
    """

    paired_true: np.ndarray
    paired_predicted: np.ndarray
    unpaired_true: np.ndarray
    unpaired_predicted: np.ndarray


class DetectionScores(NamedTuple):
    """Scores pooled over images; a score whose denominator is 0 is nan, undefined.

    Attributes:
        f_d: detection F1 over all nuclei, whatever their type, 0..1.
        accuracy: share of pairs with the right type, unlabelled true nuclei left out, 0..1.
        f_types: score F_c of each type 1..num_types-1, 0..1; nan where truth and prediction hold none of it.
        num_pairs: pairs (TP_d).
        num_unpaired_true: true nuclei that were missed (FN_d).
        num_unpaired_predicted: predicted nuclei that match none (FP_d).
    """

    f_d: float
    accuracy: float
    f_types: dict[int, float]
    num_pairs: int
    num_unpaired_true: int
    num_unpaired_predicted: int


def radius_at(mpp: float) -> float:
    """Return the published pairing distance, 3 µm, in pixels of ``mpp`` µm."""
    return RADIUS * REFERENCE_MPP / mpp


def pair_centroids(true: np.ndarray, predicted: np.ndarray, radius: float) -> Pairing:
    """Pair centroids one to one with minimal total distance, then drop pairs further apart than ``radius``.

    The published order is kept: the assignment is solved on the whole distance matrix, the radius applied
    after it. So a near neighbour can be given up for a smaller total that holds a far pair, then dropped.

    Args:
        true: (K, 2) centroids, any order of axes, in pixels.
        predicted: (L, 2) centroids, the same order and frame.
        radius: largest distance of a pair, included, in pixels (12 at 40x, 6 at 20x).

    Returns:
        The pairing; where one side is empty, all of the other is unpaired.

    Raises:
        ValueError: for centroids of another shape or not finite, or a negative radius.
    """
    if not radius >= 0:
        raise ValueError(f"radius={radius} is not a distance; give pixels, 12 at 40x and 6 at 20x")
    true, predicted = _checked_centroids(true, "true"), _checked_centroids(predicted, "predicted")
    distances = cdist(true, predicted)
    rows, columns = linear_sum_assignment(distances)
    is_near = distances[rows, columns] <= radius
    rows, columns = rows[is_near], columns[is_near]
    return Pairing(
        pairs=np.stack([rows, columns], axis=1).astype(np.int64),
        unpaired_true=np.setdiff1d(np.arange(len(true)), rows),
        unpaired_predicted=np.setdiff1d(np.arange(len(predicted)), columns),
    )


def detect_types(pairing: Pairing, true_types: np.ndarray, predicted_types: np.ndarray) -> TypedDetections:
    """Look up the types of one image's paired and unpaired nuclei.

    Args:
        pairing: of the image's K true and L predicted centroids.
        true_types: (K,) integer in the order of the centroids, -1 for unlabelled.
        predicted_types: (L,) integer in the order of the centroids.

    Raises:
        ValueError: for lists of types that are not as long as the centroids were.
    """
    num_pairs = len(pairing.pairs)
    for name, types, unpaired in (
        ("true", true_types, pairing.unpaired_true),
        ("predicted", predicted_types, pairing.unpaired_predicted),
    ):
        if np.shape(types) != (num_pairs + len(unpaired),):
            raise ValueError(
                f"{name} types have shape {np.shape(types)} for {num_pairs + len(unpaired)} centroids; "
                "give one type per centroid, in the same order"
            )
    true_types, predicted_types = np.asarray(true_types, np.int64), np.asarray(predicted_types, np.int64)
    return TypedDetections(
        paired_true=true_types[pairing.pairs[:, 0]],
        paired_predicted=predicted_types[pairing.pairs[:, 1]],
        unpaired_true=true_types[pairing.unpaired_true],
        unpaired_predicted=predicted_types[pairing.unpaired_predicted],
    )


def detection_scores(images: Sequence[TypedDetections], num_types: int) -> DetectionScores:
    """Pool the counts of all images and return F_d, the accuracy of types and F_c of each type.

    Args:
        images: one entry per image; none gives nan for every score.
        num_types: types T, background counted; scores are given for 1..T-1. A nucleus of type 0 is of
            another type than all of these: paired with one of them it counts as an error.
    """
    pooled = pool_detections(images)
    num_pairs, num_missed = len(pooled.paired_true), len(pooled.unpaired_true)
    num_invented = len(pooled.unpaired_predicted)
    is_labelled = pooled.paired_true != UNLABELLED
    is_right = pooled.paired_true == pooled.paired_predicted
    return DetectionScores(
        f_d=_ratio(2 * num_pairs, 2 * num_pairs + num_invented + num_missed),
        accuracy=_ratio(np.sum(is_right & is_labelled), np.sum(is_labelled)),
        f_types={type_id: _type_score(pooled, type_id) for type_id in range(1, num_types)},
        num_pairs=num_pairs,
        num_unpaired_true=num_missed,
        num_unpaired_predicted=num_invented,
    )


def pool_detections(images: Sequence[TypedDetections]) -> TypedDetections:
    """Join the nuclei of several images into one entry; no images give an empty one."""
    none = np.zeros(0, np.int64)
    return TypedDetections(
        paired_true=np.concatenate([none, *(image.paired_true for image in images)]),
        paired_predicted=np.concatenate([none, *(image.paired_predicted for image in images)]),
        unpaired_true=np.concatenate([none, *(image.unpaired_true for image in images)]),
        unpaired_predicted=np.concatenate([none, *(image.unpaired_predicted for image in images)]),
    )


def _type_score(pooled: TypedDetections, type_id: int) -> float:
    """F_c = 2 TP_c / (2 TP_c + 2 FP_c + 2 FN_c + FP_d + FN_d), FP_d and FN_d: unpaired nuclei of type c."""
    is_true, is_predicted = pooled.paired_true == type_id, pooled.paired_predicted == type_id
    tp = np.sum(is_true & is_predicted)
    fp = np.sum(is_predicted & ~is_true & (pooled.paired_true != UNLABELLED))
    fn = np.sum(is_true & ~is_predicted)
    invented = np.sum(pooled.unpaired_predicted == type_id)
    missed = np.sum(pooled.unpaired_true == type_id)
    return _ratio(2 * tp, 2 * (tp + fp + fn) + invented + missed)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else np.nan


def _checked_centroids(centroids: np.ndarray, name: str) -> np.ndarray:
    centroids = np.asarray(centroids, np.float64)
    if not centroids.size:
        return np.zeros((0, 2))
    if centroids.ndim != 2 or centroids.shape[1] != 2:
        raise ValueError(f"{name} centroids have shape {centroids.shape}; give (K, 2), one row per nucleus")
    if not np.isfinite(centroids).all():
        raise ValueError(f"{name} centroids hold nan or infinity; remove the nuclei without pixels")
    return centroids
