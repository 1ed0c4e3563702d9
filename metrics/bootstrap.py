"""How sure a score is: images are drawn anew, and every score is worked out again from sums over the images.

A score here is a function of sums over images: of scores and of how many define them (a mean), or of counts
(scores pooled over a data set). So drawing images anew is one product of a matrix of weights with the images'
features, and a thousand resamples cost no loop over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95  # share of the resamples that an interval holds


class Label(NamedTuple):
    """What a score is called and what it is of.

    Attributes:
        score: such as "PQ".
        group: the type or tissue that it is of; "" for all.
    """

    score: str
    group: str = ""


class Estimate(NamedTuple):
    """A score of a data set and its bootstrap interval; nan where undefined.

    Attributes:
        value: of the images as they are.
        low: end of the interval; 2.5 % of the resamples are below it.
        high: end of the interval; 2.5 % of the resamples are above it.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Statistic:
    """Scores that are functions of sums over images.

    Attributes:
        labels: of the S scores.
        features: (N, F) float64, what is summed over the N images; never nan.
        score: takes sums (R, F), gives scores (R, S), nan where undefined.
    """

    labels: Sequence[Label]
    features: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]


def mean_statistic(labels: Sequence[Label], values: np.ndarray) -> Statistic:
    """Return the means over images of scores (N, S); each leaves out the images where it is nan."""
    is_defined = ~np.isnan(values)
    features = np.concatenate([np.where(is_defined, values, 0.0), is_defined], axis=1)
    num_scores = values.shape[1]
    return Statistic(
        labels, features, lambda sums: divide(sums[:, :num_scores], np.round(sums[:, num_scores:]))
    )


def draw_weights(num_images: int, num_resamples: int, seed: int) -> np.ndarray:
    """Return (R, N) float64: how often each resample, N images drawn with replacement, holds each image.

    Raises:
        ValueError: for fewer than one image.
    """
    if num_images < 1:
        raise ValueError(f"num_images={num_images} leaves nothing to draw; give one image at least")
    rng = np.random.default_rng(seed)
    shares = np.full(num_images, 1 / num_images)
    return rng.multinomial(num_images, shares, size=num_resamples).astype(np.float64)


def estimate(statistic: Statistic, weights: np.ndarray | None = None) -> list[Estimate]:
    """Return each score of a statistic and its percentile interval.

    A resample that leaves a score undefined does not count for its interval. One image gives no interval (nan):
    there is nothing to vary.

    Args:
        statistic: of N images.
        weights: (R, N) from ``draw_weights``; None for no intervals.
    """
    resampled = None if weights is None else _resample(statistic, weights)
    return _join(_observe(statistic), resampled, len(statistic.features))


def estimate_differences(first: Statistic, second: Statistic, weights: np.ndarray | None) -> list[Estimate]:
    """Return each score of ``first`` less that of ``second``, two runs on the same images in the same order.

    Both are drawn alike, so what makes an image hard for both cancels out.
    """
    assert list(first.labels) == list(second.labels), "two runs have the same scores"
    observed = _observe(first) - _observe(second)
    resampled = None if weights is None else _resample(first, weights) - _resample(second, weights)
    return _join(observed, resampled, len(first.features))


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient of two arrays that broadcast, float64; nan where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator != 0)


def nan_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not nan; nan where all is."""
    is_defined = ~np.isnan(values)
    return divide(np.where(is_defined, values, 0.0).sum(-1), is_defined.sum(-1))


def _observe(statistic: Statistic) -> np.ndarray:
    return statistic.score(statistic.features.sum(axis=0, keepdims=True))[0]


def _resample(statistic: Statistic, weights: np.ndarray) -> np.ndarray:
    return statistic.score(weights @ statistic.features)


def _join(observed: np.ndarray, resampled: np.ndarray | None, num_images: int) -> list[Estimate]:
    tail = (1 - CONFIDENCE) / 2
    ends = np.full((2, len(observed)), np.nan)
    if resampled is not None and num_images > 1:
        is_defined = ~np.isnan(resampled).all(axis=0) & ~np.isnan(observed)
        if is_defined.any():
            ends[:, is_defined] = np.nanquantile(resampled[:, is_defined], [tail, 1 - tail], axis=0)
    columns = zip(observed.tolist(), *ends.tolist(), strict=True)
    return [Estimate(value, low, high) for value, low, high in columns]
