"""Panoptic quality per type: of PanNuke (means over images and tissues) and of CoNIC (counts pooled over images).

All are read off counts (…, 4): TP, FP, FN and the sum of IoU over matched pairs, in the order of ``TP … IOU_SUM``.
The published programs add 1e-6 to their denominators; here they are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from metrics.bootstrap import Label, Statistic, divide, mean_statistic, nan_mean
from metrics.detection import UNLABELLED
from metrics.matches import Matches

TP, FP, FN, IOU_SUM = range(4)


def count_binary(matches: Matches) -> np.ndarray:
    """Return the (4,) float64 counts of one image, types ignored."""
    num_pairs = len(matches.ious)
    num_true, num_predicted = len(matches.true_types), len(matches.predicted_types)
    counts = [num_pairs, num_predicted - num_pairs, num_true - num_pairs, matches.ious.sum()]
    return np.array(counts, np.float64)


def count_types(matches: Matches, num_types: int) -> np.ndarray:
    """Return the (T, 4) float64 counts of one image for each type, as if its nuclei were alone in both maps.

    A pair of two types is a false positive of one and a false negative of the other. A predicted nucleus whose
    partner is unlabelled counts for no type.

    Args:
        matches: of one image, its types below ``num_types``.
        num_types: T, background counted; its row holds the nuclei of type 0.
    """
    true_types, predicted_types = matches.pair_true_types, matches.pair_predicted_types
    is_judged = np.ones(len(matches.predicted_types), bool)
    is_judged[matches.columns[true_types == UNLABELLED]] = False
    is_right = (true_types == predicted_types) & (true_types != UNLABELLED)
    tp = _count(true_types[is_right], num_types)
    fp = _count(matches.predicted_types[is_judged], num_types) - tp
    fn = _count(matches.true_types, num_types) - tp
    iou_sums = np.bincount(true_types[is_right], weights=matches.ious[is_right], minlength=num_types)
    return np.stack([tp, fp, fn, iou_sums], axis=-1)


def panoptic_of_counts(counts: np.ndarray) -> np.ndarray:
    """Return PQ (…,) of counts (…, 4): sum of IoU over TP + FP / 2 + FN / 2; nan without nuclei."""
    return divide(counts[..., IOU_SUM], counts[..., TP] + (counts[..., FP] + counts[..., FN]) / 2)


def panoptic_of_images(counts: np.ndarray, *, strict: bool = False) -> np.ndarray:
    """Return PQ (…,) of counts (…, 4) of single images, as PanNuke's evaluation takes it.

    Where the truth has no nucleus it is nan, and what was predicted there costs nothing (Gamper et al. 2020, as
    published). ``strict`` makes it 0 where something was predicted; without nuclei on either side it stays nan.
    """
    quality = panoptic_of_counts(counts)
    return quality if strict else np.where(counts[..., TP] + counts[..., FN] > 0, quality, np.nan)


def pannuke_statistics(
    typed: np.ndarray | None,
    binary: np.ndarray,
    type_names: Sequence[str],
    *,
    tissues: Sequence[str] = (),
    strict: bool = False,
) -> list[Statistic]:
    """Return bPQ and, with types, mPQ and PQ of each type, as PanNuke's official evaluation defines them.

    PQ of a type is its mean over images. mPQ of an image is the mean over its types, then the mean is taken over
    the images of a tissue, then over tissues; bPQ likewise of binary PQ. Without tissues the mean is over images.

    Args:
        typed: (N, T, 4) counts of each image and type, background first; None without types.
        binary: (N, 4) counts of each image, types ignored.
        type_names: of the T types, background first; empty without types.
        tissues: of the N images; empty where unknown.
        strict: whether what is predicted of absent types is punished, see ``panoptic_of_images``.
    """
    suffix = "_strict" if strict else ""
    statistics = []
    if typed is not None:
        of_types = panoptic_of_images(typed[:, 1:], strict=strict)
        statistics.append(tissue_statistic(f"mPQ{suffix}", nan_mean(of_types), tissues))
    statistics.append(tissue_statistic(f"bPQ{suffix}", panoptic_of_images(binary, strict=strict), tissues))
    if typed is not None:
        labels = [Label(f"PQ{suffix}", name) for name in type_names[1:]]
        statistics.append(mean_statistic(labels, of_types))
    return statistics


def tissue_statistic(score: str, values: np.ndarray, tissues: Sequence[str]) -> Statistic:
    """Return the mean over tissues of a score's mean over their images, and the mean of each tissue.

    Args:
        score: its name.
        values: (N,) of the images; nan is left out.
        tissues: of the N images; empty for a plain mean over images.
    """
    if not len(tissues):
        return mean_statistic([Label(score)], values[:, None])
    names, places = np.unique(np.asarray(tissues), return_inverse=True)
    by_tissue = np.where(np.arange(len(names)) == places[:, None], values[:, None], np.nan)
    plain = mean_statistic([Label(score, str(name)) for name in names], by_tissue)

    def with_mean(sums: np.ndarray) -> np.ndarray:
        means = plain.score(sums)
        return np.concatenate([nan_mean(means)[:, None], means], axis=1)

    return Statistic([Label(score), *plain.labels], plain.features, with_mean)


def conic_statistic(typed: np.ndarray, type_names: Sequence[str]) -> Statistic:
    """Return mPQ+ and PQ+ of each type: counts pooled over all images, then the mean over types (CoNIC 2022).

    A type that neither side has anywhere is undefined and left out of the mean; the published program counts it 0.

    Args:
        typed: (N, T, 4) counts of each image and type, background first.
        type_names: of the T types, background first.
    """

    def score(sums: np.ndarray) -> np.ndarray:
        of_types = panoptic_of_counts(sums.reshape(len(sums), -1, 4))
        return np.concatenate([nan_mean(of_types)[:, None], of_types], axis=1)

    labels = [Label("mPQ+"), *(Label("PQ+", name) for name in type_names[1:])]
    return Statistic(labels, typed[:, 1:].reshape(len(typed), -1), score)


def find_tissues(images: Sequence[str], tissue_of: Mapping[str, str]) -> list[str]:
    """Return the tissue of each image; none where ``tissue_of`` is empty.

    Raises:
        ValueError: where it lacks an image.
    """
    missing = [name for name in images if name not in tissue_of]
    if tissue_of and missing:
        raise ValueError(
            f"{len(missing)} images have no tissue: {', '.join(missing[:5])}; add a line name,tissue for each"
        )
    return [tissue_of[name] for name in images] if tissue_of else []


def _count(types: np.ndarray, num_types: int) -> np.ndarray:
    return np.bincount(types[types >= 0], minlength=num_types)
