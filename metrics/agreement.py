"""How well counts and areas of nuclei agree with the truth: R² of counts (CoNIC) and Bland–Altman's limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metrics.bootstrap import Label, Statistic, divide, nan_mean
from metrics.matches import Matches

LIMIT_SDS = 1.96  # standard deviations between the bias and a limit of agreement (Bland and Altman 1986)


def count_nuclei(types: np.ndarray, num_types: int) -> np.ndarray:
    """Return (T,) float64: how many nuclei there are, whatever their type, then how many of each type from 1 up.

    Args:
        types: (K,) integer, below ``num_types``; -1, unlabelled, counts in the first number alone.
        num_types: T, background counted.
    """
    of_types = np.bincount(types[types > 0], minlength=num_types)[1:]
    return np.concatenate([[len(types)], of_types]).astype(np.float64)


def r_squared_statistic(true: np.ndarray, predicted: np.ndarray, type_names: Sequence[str]) -> Statistic:
    """Return the mean over types of R² of the counts in images, and that of each type (CoNIC 2022).

    R² = 1 - sum (true - predicted)² / sum (true - mean true)²; below 0 where the mean would predict better. Where
    the true counts of all images are equal it is undefined, nan (scikit-learn says 1 or 0). The counts are of whole
    images, so on CoNIC's own patches of 256 px it differs from the challenge's, which counts the nuclei of the central
    224 x 224 px.

    Args:
        true: (N, T - 1) counts of each image and type from 1 up.
        predicted: (N, T - 1) likewise.
        type_names: of the T types, background first.
    """
    centred = true - true.mean(axis=0, keepdims=True)  # keeps the difference of large sums exact
    features = np.stack([np.ones_like(centred), centred, centred**2, (true - predicted) ** 2], axis=-1)

    def score(sums: np.ndarray) -> np.ndarray:
        number, first, second, residual = np.moveaxis(sums.reshape(len(sums), -1, 4), -1, 0)
        spread = second - divide(first**2, number)
        is_constant = spread <= 1e-9 * np.maximum(second, 1)
        of_types = 1 - divide(residual, np.where(is_constant, 0, spread))
        return np.concatenate([nan_mean(of_types)[:, None], of_types], axis=1)

    labels = [Label("R2"), *(Label("R2", name) for name in type_names[1:])]
    return Statistic(labels, features.reshape(len(true), -1), score)


def count_differences(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return (N, G, 3) features of ``bland_altman_statistic``: each image is one difference of counts (N, G)."""
    differences = predicted - true
    return np.stack([np.ones_like(differences), differences, differences**2], axis=-1)


def area_differences(matches: Matches, num_types: int) -> np.ndarray:
    """Return (T, 3) features of ``bland_altman_statistic`` of one image: a difference for each matched pair.

    Row 0 is of all pairs, the others of those whose true nucleus has that type. Areas are in pixels.
    """
    differences = matches.area_differences.astype(np.float64)
    types = matches.pair_true_types
    places, kept = types[types > 0], differences[types > 0]
    columns = []
    for power in range(3):
        of_types = np.bincount(places, weights=kept**power, minlength=num_types)
        of_types[0] = np.sum(differences**power)
        columns.append(of_types)
    return np.stack(columns, axis=-1)


def bland_altman_statistic(what: str, features: np.ndarray, groups: Sequence[str]) -> Statistic:
    """Return the mean difference, predicted less true (bias), and the limits within which 95 % of them lie.

    The limits are bias ± 1.96 sample standard deviations (Bland and Altman 1986); nan for fewer than two differences.

    Args:
        what: was compared, the beginning of the scores' names.
        features: (N, G, 3) of each image and group: number, sum and sum of squares of the differences.
        groups: of the G groups; "" for all nuclei.
    """

    def score(sums: np.ndarray) -> np.ndarray:
        number, first, second = np.moveaxis(sums.reshape(len(sums), -1, 3), -1, 0)
        bias = divide(first, number)
        spread = np.maximum(second - divide(first**2, number), 0)
        reach = LIMIT_SDS * np.sqrt(divide(spread, np.maximum(np.round(number) - 1, 0)))
        return np.stack([bias, bias - reach, bias + reach], axis=-1).reshape(len(sums), -1)

    names = (f"{what}_bias", f"{what}_lower_limit", f"{what}_upper_limit")
    labels = [Label(name, group) for group in groups for name in names]
    return Statistic(labels, features.reshape(len(features), -1), score)
