"""Segmentation scores of one image, read off its overlap table: Dice, DICE2, AJI, AJI+ and panoptic quality.

One convention for images without nuclei: where neither map holds a nucleus every score is nan, undefined, and
``metrics.report`` leaves it out of the mean and counts it; where only one map holds nuclei every score is 0.
The reference adds 1e-6 to some denominators; here they are exact, so identical maps score exactly 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from metrics.overlap import Overlap

# Pixels added to the union where AJI and AJI+ choose pairs, as in the published code: of two pairs with the
# same IoU the larger wins. It decides ties only and enters no score.
TIE_BREAK = 1e-6
F1_IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)  # above which a pair counts as found


class PanopticQuality(NamedTuple):
    """Panoptic quality and what it was computed from.

    Attributes:
        dq: detection quality 2 TP / (2 TP + FP + FN), 0..1; nan without nuclei.
        sq: segmentation quality, mean IoU of the matched pairs, 0..1; 0 without pairs, nan without nuclei.
        pq: dq * sq.
        tp: number of matched pairs.
        fp: number of predicted nuclei without a match.
        fn: number of true nuclei without a match.
        iou_sum: sum of IoU over matched pairs; with tp, fp and fn it lets images be pooled.
    """

    dq: float
    sq: float
    pq: float
    tp: int
    fp: int
    fn: int
    iou_sum: float


def dice(o: Overlap) -> float:
    """Return the Dice coefficient of the two foregrounds, ids ignored (DICE1), 0..1; nan without nuclei."""
    return _ratio(2 * o.intersections.sum(), o.true_areas.sum() + o.predicted_areas.sum())


def dice2(o: Overlap) -> float:
    """Return the Dice coefficient over overlapping pairs (DICE2), 0..1; 0 without pairs, nan without nuclei.

    Sum of 2 * intersection over sum of both areas, over every pair that shares a pixel (Vu et al. 2019). A
    nucleus counts once in each of its pairs; one without a pair does not count at all.
    """
    if not len(o.rows):
        return np.nan if o.is_empty else 0.0
    return _ratio(2 * o.intersections.sum(), o.totals.sum())


def aji(o: Overlap) -> float:
    """Return the aggregated Jaccard index (Kumar et al. 2017), 0..1; nan without nuclei.

    Every true nucleus takes the predicted one of highest IoU; a predicted one may be taken several times, and
    then its union counts several times. Nuclei in no pair add their area to the union. Among equal IoU the
    larger pair is taken, then the lower predicted id, as in the published code.
    """
    order = np.lexsort((o.columns, -_tie_broken_ious(o), o.rows))
    is_best = np.diff(o.rows[order], prepend=-1) > 0
    return _aggregated_jaccard(o, order[is_best])


def aji_plus(o: Overlap) -> float:
    """Return AJI with the one-to-one pairing of maximal total IoU (HoVer-Net's AJI+); nan without nuclei."""
    return _aggregated_jaccard(o, _match_one_to_one(o, _tie_broken_ious(o)))


def panoptic_quality(o: Overlap, match_iou: float = 0.5) -> PanopticQuality:
    """Return detection, segmentation and panoptic quality (Kirillov et al. 2019; Graham et al. 2019).

    Args:
        o: overlap table of one image.
        match_iou: a pair matches above this IoU, 0 <= match_iou < 1. From 0.5 such pairs are unique by
            themselves; below, the one-to-one pairing of maximal total IoU is taken first.

    Raises:
        ValueError: for a match_iou outside 0..1.
    """
    if not 0 <= match_iou < 1:
        raise ValueError(f"match_iou={match_iou} is not an IoU; give 0 <= match_iou < 1, usually 0.5")
    ious = o.ious
    if match_iou < 0.5:
        ious = ious[_match_one_to_one(o, ious)]
    ious = ious[ious > match_iou]
    tp, fp, fn = len(ious), len(o.predicted_ids) - len(ious), len(o.true_ids) - len(ious)
    dq = _ratio(2 * tp, 2 * tp + fp + fn)
    sq = np.nan if o.is_empty else _ratio(ious.sum(), max(tp, 1))
    return PanopticQuality(dq, sq, dq * sq, tp, fp, fn, float(ious.sum()))


def f1_by_iou(o: Overlap) -> dict[str, float]:
    """Return F1 = 2 TP / (2 TP + FP + FN) with pairs above IoU 0.5, 0.6, … 0.9, and their mean; nan without nuclei.

    The mean over strictness is to F1 what average precision is to precision: one number for how well nuclei are
    found and outlined.

    Returns:
        "F1@0.5" … "F1@0.9" and "F1@mean", 0..1.
    """
    num_nuclei = len(o.true_ids) + len(o.predicted_ids)
    num_pairs = (o.ious[:, None] > F1_IOUS).sum(axis=0)
    scores = [_ratio(2 * pairs, num_nuclei) for pairs in num_pairs.tolist()]
    named = {f"F1@{iou}": score for iou, score in zip(F1_IOUS, scores, strict=True)}
    return {**named, "F1@mean": sum(scores) / len(scores)}


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else np.nan


def _tie_broken_ious(o: Overlap) -> np.ndarray:
    return o.intersections / (o.unions + TIE_BREAK)


def _aggregated_jaccard(o: Overlap, chosen: np.ndarray) -> float:
    """Pool the ``chosen`` pairs, (M,) indices into the pairs of ``o``, and add the nuclei in none of them."""
    is_true_alone = np.ones(len(o.true_ids), bool)
    is_true_alone[o.rows[chosen]] = False
    is_predicted_alone = np.ones(len(o.predicted_ids), bool)
    is_predicted_alone[o.columns[chosen]] = False
    alone = o.true_areas[is_true_alone].sum() + o.predicted_areas[is_predicted_alone].sum()
    return _ratio(o.intersections[chosen].sum(), o.unions[chosen].sum() + alone)


def _match_one_to_one(o: Overlap, weights: np.ndarray) -> np.ndarray:
    """Return indices (M,) of pairs of maximal total weight in which no nucleus occurs twice.

    Nuclei that no chain of overlaps connects cannot compete, so each connected group is assigned by itself:
    the result is that of the Hungarian method on the whole (K, L) matrix, at the cost of its small blocks.
    """
    if not len(weights):
        return np.zeros(0, np.int64)
    num_true, num_nuclei = len(o.true_ids), len(o.true_ids) + len(o.predicted_ids)
    graph = coo_array((np.ones(len(weights)), (o.rows, num_true + o.columns)), shape=(num_nuclei, num_nuclei))
    group_of_nucleus = connected_components(graph, directed=False)[1]
    group_of_pair = group_of_nucleus[o.rows]
    order = np.argsort(group_of_pair, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group_of_pair[order])) + 1)
    return np.concatenate([pairs if len(pairs) == 1 else _assign(o, weights, pairs) for pairs in groups])


def _assign(o: Overlap, weights: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return those of ``pairs``, the pairs of one connected group, that the Hungarian method keeps."""
    row = np.unique(o.rows[pairs], return_inverse=True)[1]
    column = np.unique(o.columns[pairs], return_inverse=True)[1]
    gain = np.zeros((row.max() + 1, column.max() + 1))
    pair_at = np.full(gain.shape, -1, dtype=np.int64)
    gain[row, column] = weights[pairs]
    pair_at[row, column] = pairs
    kept = pair_at[linear_sum_assignment(gain, maximize=True)]
    return kept[kept >= 0]
