"""Slow, obvious versions of the statistics: one mask per nucleus, loops over images, types and resamples."""

from __future__ import annotations

import numpy as np

Typed = tuple[np.ndarray, dict[int, int]]  # label map, type of each id


def keep_type(image: Typed, type_id: int) -> np.ndarray:
    """Return the label map of one type alone."""
    label_map, types = image
    return np.where(
        np.isin(label_map, [nucleus for nucleus, kind in types.items() if kind == type_id]), label_map, 0
    )


def quality_counts(
    true: np.ndarray, predicted: np.ndarray, match_iou: float = 0.5
) -> tuple[int, int, int, float]:
    """Return TP, FP, FN and the sum of IoU of two label maps."""
    true_ids, predicted_ids = np.unique(true[true > 0]), np.unique(predicted[predicted > 0])
    ious = []
    for nucleus in true_ids:
        for other in predicted_ids:
            mask, other_mask = true == nucleus, predicted == other
            iou = np.sum(mask & other_mask) / np.sum(mask | other_mask)
            if iou > match_iou:
                ious.append(iou)
    return len(ious), len(predicted_ids) - len(ious), len(true_ids) - len(ious), float(sum(ious))


def quality(tp: float, fp: float, fn: float, iou_sum: float) -> float:
    """Return DQ * SQ; nan without nuclei."""
    if tp + fp + fn == 0:
        return np.nan
    return tp / (tp + fp / 2 + fn / 2) * (iou_sum / tp if tp else 0)


def mean(values: list[float]) -> float:
    """Return the mean of what is not nan."""
    defined = [value for value in values if not np.isnan(value)]
    return sum(defined) / len(defined) if defined else np.nan


def pannuke(
    pairs: list[tuple[Typed, Typed]], num_types: int, *, strict: bool
) -> tuple[list[float], list[float], list[list[float]]]:
    """Return mPQ and bPQ of each image, and PQ of each image and type, as PanNuke's evaluation loops over them."""
    mpq, bpq, of_types = [], [], []
    for true, predicted in pairs:
        maps = [(keep_type(true, kind), keep_type(predicted, kind)) for kind in range(1, num_types)]
        row = [_image_quality(*both, strict=strict) for both in maps]
        of_types.append(row)
        mpq.append(mean(row))
        bpq.append(_image_quality(true[0], predicted[0], strict=strict))
    return mpq, bpq, of_types


def _image_quality(true: np.ndarray, predicted: np.ndarray, *, strict: bool) -> float:
    if not true.any():
        return 0.0 if strict and predicted.any() else np.nan
    return quality(*quality_counts(true, predicted))


def conic(pairs: list[tuple[Typed, Typed]], num_types: int) -> list[float]:
    """Return PQ+ of each type: counts summed over images."""
    result = []
    for kind in range(1, num_types):
        counts = [
            quality_counts(keep_type(true, kind), keep_type(predicted, kind)) for true, predicted in pairs
        ]
        result.append(quality(*np.sum(counts, axis=0)))
    return result


def random_typed_pairs(num: int, num_types: int = 4, size: int = 40) -> list[tuple[Typed, Typed]]:
    """Draw pairs of small typed label maps; a few are empty on one side or on both."""
    from benchmarks.statistics import disturb, make_label_map

    pairs = []
    for seed in range(num):
        rng = np.random.default_rng(seed)
        true = make_label_map(rng, size, int(rng.integers(0, 7)))
        predicted = disturb(true, rng) if rng.random() > 0.1 else np.zeros_like(true)
        if rng.random() < 0.1:
            true = np.zeros_like(true)
        true_types = {int(nucleus): int(rng.integers(1, num_types)) for nucleus in np.unique(true) if nucleus}
        predicted_types = {}
        for nucleus in np.unique(predicted[predicted > 0]).tolist():
            under = true[(predicted == nucleus) & (true > 0)]
            is_kept = len(under) and rng.random() < 0.8
            kind = (
                true_types[int(np.bincount(under).argmax())] if is_kept else int(rng.integers(1, num_types))
            )
            predicted_types[nucleus] = kind
        pairs.append(((true, true_types), (predicted, predicted_types)))
    return pairs
