import numpy as np
import pytest

from metrics.agreement import (
    area_differences,
    bland_altman_statistic,
    count_differences,
    count_nuclei,
    r_squared_statistic,
)
from metrics.bootstrap import Label, draw_weights, estimate
from metrics.matches import Matches
from metrics.overlap import Overlap

NAMES = ["background", "round", "long"]
TRUE = np.array([[1, 1, 0, 0], [1, 1, 0, 2], [3, 3, 0, 2], [3, 3, 0, 2]])
PREDICTED = np.array([[1, 1, 0, 0], [1, 0, 0, 2], [3, 3, 2, 2], [3, 3, 0, 2]])


def r2_score(true, predicted):
    """The definition that scikit-learn and CoNIC have, where the truth varies."""
    return 1 - sum((true - predicted) ** 2) / sum((true - sum(true) / len(true)) ** 2)


def values(statistic, weights=None):
    return {
        label: one.value for label, one in zip(statistic.labels, estimate(statistic, weights), strict=True)
    }


def test_nuclei_are_counted_in_all_and_by_type():
    assert count_nuclei(np.array([1, 2, 2, 0, -1]), 3).tolist() == [5, 1, 2]
    assert count_nuclei(np.zeros(0, int), 3).tolist() == [0, 0, 0]


def test_r_squared_equals_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(50):
        true = rng.integers(0, 40, (9, 2)).astype(float)
        predicted = true + rng.integers(-9, 9, (9, 2))
        found = values(r_squared_statistic(true, predicted, NAMES))
        expected = [r2_score(true[:, column], predicted[:, column]) for column in (0, 1)]
        assert [found[Label("R2", name)] for name in NAMES[1:]] == pytest.approx(expected)
        assert found[Label("R2")] == pytest.approx(np.mean(expected))


def test_r_squared_is_one_for_equal_counts_and_undefined_where_the_truth_never_varies():
    true = np.array([[1.0, 4.0], [3.0, 4.0], [8.0, 4.0]])
    found = values(r_squared_statistic(true, true, NAMES))
    assert found[Label("R2", "round")] == 1
    assert np.isnan(found[Label("R2", "long")])
    assert found[Label("R2")] == 1


def test_the_interval_of_r_squared_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    true = rng.integers(0, 40, (30, 1)).astype(float)
    predicted = true + rng.integers(-9, 9, (30, 1))
    weights = draw_weights(30, 100, seed=0)
    drawn = [np.repeat(np.arange(30), row.astype(int)) for row in weights]
    expected = np.percentile([r2_score(true[rows, 0], predicted[rows, 0]) for rows in drawn], [2.5, 97.5])
    found = estimate(r_squared_statistic(true, predicted, NAMES[:2]), weights)[1]
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_limits_of_agreement_lie_1_96_standard_deviations_about_the_bias():
    true, predicted = np.array([[10.0], [20.0], [30.0]]), np.array([[12.0], [20.0], [31.0]])
    found = values(bland_altman_statistic("count", count_differences(true, predicted), [""]))
    sd = np.std([2, 0, 1], ddof=1)
    assert found[Label("count_bias")] == 1
    assert found[Label("count_lower_limit")] == pytest.approx(1 - 1.96 * sd)
    assert found[Label("count_upper_limit")] == pytest.approx(1 + 1.96 * sd)


def test_limits_need_two_differences():
    found = values(bland_altman_statistic("count", count_differences(np.ones((1, 1)), np.ones((1, 1))), [""]))
    assert found[Label("count_bias")] == 0
    assert np.isnan(found[Label("count_upper_limit")])


def test_areas_are_compared_between_matched_nuclei():
    """4 against 3 px, 3 against 4 px and 4 against 4 px; types 1, 2 and 1 of the truth."""
    overlap = Overlap.of(TRUE, PREDICTED)
    matches = Matches.of(overlap, np.array([1, 2, 1]), np.array([1, 2, 1]))
    features = area_differences(matches, 3)
    assert features.tolist() == [[3, 0, 2], [2, -1, 1], [1, 1, 1]]
    found = values(bland_altman_statistic("area", features[None], ["", *NAMES[1:]]))
    assert found[Label("area_bias")] == 0
    assert found[Label("area_upper_limit")] == pytest.approx(1.96 * np.std([-1, 1, 0], ddof=1))
    assert found[Label("area_bias", "round")] == -1 / 2
    assert found[Label("area_bias", "long")] == 1


def test_a_nucleus_without_a_match_has_no_area_difference():
    empty = np.zeros_like(TRUE)
    matches = Matches.of(Overlap.of(TRUE, empty), np.array([1, 2, 1]), np.zeros(0, int))
    assert not area_differences(matches, 3).any()
