import numpy as np
import pytest

from metrics.bootstrap import Label, Statistic, draw_weights, estimate, estimate_differences, mean_statistic

VALUES = np.array([[0.1, 0.5], [0.4, np.nan], [0.8, 0.9], [0.3, 0.2], [0.6, 0.7]])
LABELS = [Label("PQ"), Label("AJI")]


def draw_plainly(weights):
    """The images of each resample, one after another."""
    return [np.repeat(np.arange(len(row)), row.astype(int)) for row in weights]


def test_a_resample_holds_as_many_images_as_there_are():
    weights = draw_weights(5, 100, seed=1)
    assert (weights.sum(axis=1) == 5).all()
    assert weights.min() == 0
    assert np.array_equal(weights, draw_weights(5, 100, seed=1))
    assert not np.array_equal(weights, draw_weights(5, 100, seed=2))


def test_images_are_drawn_as_often_as_chance_has_it():
    """Each image is expected once a resample, with variance 1 - 1 / N."""
    weights = draw_weights(10, 20_000, seed=0)
    assert weights.mean(axis=0) == pytest.approx(np.ones(10), abs=0.03)
    assert weights.var(axis=0) == pytest.approx(np.full(10, 0.9), abs=0.05)


def test_a_mean_leaves_undefined_images_out():
    found = estimate(mean_statistic(LABELS, VALUES), draw_weights(5, 50, 0))
    assert [one.value for one in found] == pytest.approx([2.2 / 5, 2.3 / 4])


def test_intervals_are_the_percentiles_of_a_loop_over_resamples():
    weights = draw_weights(5, 300, seed=3)
    found = estimate(mean_statistic(LABELS, VALUES), weights)
    for column in (0, 1):
        means = [np.nanmean(VALUES[drawn, column]) for drawn in draw_plainly(weights)]
        expected = np.percentile(means, [2.5, 97.5])
        assert [found[column].low, found[column].high] == pytest.approx(list(expected))


def test_a_pooled_score_is_pooled_anew_in_each_resample():
    counts = np.array([[8.0, 10.0], [1.0, 20.0], [5.0, 5.0]])
    ratio = Statistic([Label("share")], counts, lambda sums: sums[:, :1] / sums[:, 1:])
    weights = draw_weights(3, 200, seed=0)
    shares = [counts[drawn, 0].sum() / counts[drawn, 1].sum() for drawn in draw_plainly(weights)]
    found = estimate(ratio, weights)[0]
    assert found.value == 14 / 35
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(shares, [2.5, 97.5])))


def test_the_interval_of_a_mean_is_that_of_theory():
    """Of 400 draws from a normal distribution of sd 1 the mean has the interval ± 1.96 / 20."""
    values = np.random.default_rng(5).normal(size=(400, 1))
    found = estimate(mean_statistic([Label("x")], values), draw_weights(400, 4000, seed=0))[0]
    assert (found.high - found.low) / 2 == pytest.approx(1.96 / 20, rel=0.08)


def test_a_difference_is_paired():
    """Two runs that differ by 0.1 on every image differ by 0.1 for certain, however hard the images are."""
    first, second = mean_statistic(LABELS[:1], VALUES[:, :1]), mean_statistic(LABELS[:1], VALUES[:, :1] - 0.1)
    found = estimate_differences(first, second, draw_weights(5, 100, 0))[0]
    assert tuple(found) == pytest.approx((0.1, 0.1, 0.1))


def test_a_difference_has_the_percentiles_of_a_loop():
    other = VALUES[::-1].copy()
    weights = draw_weights(5, 300, seed=3)
    found = estimate_differences(mean_statistic(LABELS, VALUES), mean_statistic(LABELS, other), weights)[0]
    differences = [np.mean(VALUES[drawn, 0]) - np.mean(other[drawn, 0]) for drawn in draw_plainly(weights)]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))


def test_one_image_or_none_defined_has_no_interval():
    one = estimate(mean_statistic(LABELS, VALUES[:1]), draw_weights(1, 10, 0))[0]
    assert one.value == 0.1
    assert np.isnan(one.low)
    undefined = estimate(mean_statistic(LABELS[:1], np.full((3, 1), np.nan)), draw_weights(3, 10, 0))[0]
    assert np.isnan(undefined).all()
    with pytest.raises(ValueError, match="leaves nothing to draw"):
        draw_weights(0, 10, 0)
