import numpy as np
import pytest

from metrics.bootstrap import Label, draw_weights, estimate
from metrics.matches import Matches
from metrics.overlap import Overlap
from metrics.panoptic import (
    conic_statistic,
    count_binary,
    count_types,
    find_tissues,
    pannuke_statistics,
    panoptic_of_counts,
    panoptic_of_images,
)
from metrics.segmentation import panoptic_quality
from tests.metrics import slow

# 1 (type 1) meets 1 with IoU 3/4, 2 (type 2) meets 2 with IoU 2/5, 3 (type 2) meets none
TRUE = np.array([[1, 1, 0, 0], [1, 1, 0, 2], [0, 0, 0, 2], [3, 0, 0, 2]])
PREDICTED = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])
NAMES = ["background", "round", "long", "odd"]


def match(true, predicted, true_types, predicted_types):
    overlap = Overlap.of(true, predicted)
    return Matches.of(overlap, np.array(true_types, int), np.array(predicted_types, int))


def match_typed(pair):
    (true, true_types), (predicted, predicted_types) = pair
    types = [[kinds[key] for key in sorted(kinds)] for kinds in (true_types, predicted_types)]
    return match(true, predicted, *types)


def values(statistics):
    found = {}
    for statistic in statistics:
        found |= {label: one.value for label, one in zip(statistic.labels, estimate(statistic), strict=True)}
    return found


def test_counts_of_a_type_are_those_of_its_nuclei_alone():
    counts = count_types(match(TRUE, PREDICTED, [1, 2, 2], [1, 2]), 3)
    assert counts.tolist() == [[0, 0, 0, 0], [1, 0, 0, 3 / 4], [0, 1, 2, 0]]
    assert panoptic_of_counts(counts)[1:].tolist() == [3 / 4, 0]


def test_a_match_of_two_types_is_a_false_positive_of_one_and_a_false_negative_of_the_other():
    counts = count_types(match(TRUE, PREDICTED, [1, 2, 2], [2, 2]), 3)
    assert counts[1].tolist() == [0, 0, 1, 0]
    assert counts[2].tolist() == [0, 2, 2, 0]


def test_what_is_predicted_of_an_unlabelled_nucleus_counts_for_no_type():
    counts = count_types(match(TRUE, PREDICTED, [-1, 2, 2], [1, 1]), 3)
    assert counts[1].tolist() == [0, 1, 0, 0]
    assert counts[2].tolist() == [0, 0, 2, 0]


def test_binary_counts_are_those_of_panoptic_quality():
    quality = panoptic_quality(Overlap.of(TRUE, PREDICTED))
    counts = count_binary(match(TRUE, PREDICTED, [1, 2, 2], [1, 2]))
    assert counts.tolist() == [quality.tp, quality.fp, quality.fn, quality.iou_sum]
    assert panoptic_of_counts(counts) == pytest.approx(quality.pq)


def test_an_absent_type_costs_nothing_unless_strict():
    """Type 2 is predicted and not there: PQ of type 1 alone (3/4), or its mean with 0."""
    matches = match(np.where(TRUE == 1, 1, 0), PREDICTED, [1], [1, 2])
    typed, binary = count_types(matches, 4)[None], count_binary(matches)[None]
    found = values(pannuke_statistics(typed, binary, NAMES))
    assert found[Label("mPQ")] == 3 / 4
    assert np.isnan(found[Label("PQ", "long")])
    strict = values(pannuke_statistics(typed, binary, NAMES, strict=True))
    assert strict[Label("mPQ_strict")] == (3 / 4 + 0) / 2
    assert np.isnan(strict[Label("PQ_strict", "odd")])


def test_an_image_without_true_nuclei_is_undefined_unless_strict():
    invented = np.array([0.0, 2.0, 0.0, 0.0])
    assert np.isnan(panoptic_of_images(invented))
    assert panoptic_of_images(invented, strict=True) == 0
    assert np.isnan(panoptic_of_images(np.zeros(4), strict=True))


def test_tissues_are_averaged_before_their_mean_is_taken():
    perfect, half = np.array([2.0, 0, 0, 2.0]), np.array([1.0, 1, 1, 1.0])
    binary = np.stack([perfect, perfect, half])
    found = values(pannuke_statistics(None, binary, (), tissues=["skin", "skin", "lung"]))
    assert found == {
        Label("bPQ"): (1 + 0.5) / 2,
        Label("bPQ", "lung"): 0.5,
        Label("bPQ", "skin"): 1,
    }
    assert values(pannuke_statistics(None, binary, ()))[Label("bPQ")] == (1 + 1 + 0.5) / 3


def test_pooled_quality_weighs_images_by_their_nuclei():
    """CoNIC: one image with 3 of 3 found, one with 0 of 1: PQ+ 3 / 3.5 at IoU 1, not the mean of 1 and 0."""
    typed = np.zeros((2, 3, 4))
    typed[0, 1], typed[1, 1] = (3, 0, 0, 3), (0, 0, 1, 0)
    found = values([conic_statistic(typed, NAMES[:3])])
    assert found[Label("PQ+", "round")] == 3 / 3.5
    assert np.isnan(found[Label("PQ+", "long")])
    assert found[Label("mPQ+")] == 3 / 3.5


def test_scores_equal_the_definitions_on_200_random_pairs():
    pairs = slow.random_typed_pairs(200)
    matches = [match_typed(pair) for pair in pairs]
    typed = np.stack([count_types(one, 4) for one in matches])
    binary = np.stack([count_binary(one) for one in matches])
    for strict, suffix in ((False, ""), (True, "_strict")):
        mpq, bpq, of_types = slow.pannuke(pairs, 4, strict=strict)
        np.testing.assert_allclose(panoptic_of_images(typed[:, 1:], strict=strict), of_types)
        found = values(pannuke_statistics(typed, binary, NAMES, strict=strict))
        assert found[Label(f"mPQ{suffix}")] == pytest.approx(slow.mean(mpq))
        assert found[Label(f"bPQ{suffix}")] == pytest.approx(slow.mean(bpq))
        for index, name in enumerate(NAMES[1:]):
            expected = slow.mean([row[index] for row in of_types])
            assert found[Label(f"PQ{suffix}", name)] == pytest.approx(expected)
    found = values([conic_statistic(typed, NAMES)])
    expected = slow.conic(pairs, 4)
    assert [found[Label("PQ+", name)] for name in NAMES[1:]] == pytest.approx(expected)
    assert found[Label("mPQ+")] == pytest.approx(slow.mean(expected))


def test_identical_typed_maps_score_one():
    pairs = [(true, true) for true, _ in slow.random_typed_pairs(8)]
    matches = [match_typed(pair) for pair in pairs]
    typed = np.stack([count_types(one, 4) for one in matches])
    found = values(
        [
            *pannuke_statistics(typed, np.stack([count_binary(one) for one in matches]), NAMES, strict=True),
            conic_statistic(typed, NAMES),
        ]
    )
    assert set(found.values()) == {1}


def test_every_image_needs_a_tissue_where_tissues_are_given():
    assert find_tissues(["a", "b"], {}) == []
    assert find_tissues(["a", "b"], {"b": "skin", "a": "lung"}) == ["lung", "skin"]
    with pytest.raises(ValueError, match="1 images have no tissue: b"):
        find_tissues(["a", "b"], {"a": "lung"})


def test_types_that_are_not_one_a_nucleus_are_refused():
    with pytest.raises(ValueError, match="one type per id"):
        match(TRUE, PREDICTED, [1, 2], [1, 2])


def test_intervals_hold_the_value_of_pooled_scores():
    matches = [match_typed(pair) for pair in slow.random_typed_pairs(60)]
    typed = np.stack([count_types(one, 4) for one in matches])
    for one in estimate(conic_statistic(typed, NAMES), draw_weights(60, 500, 0)):
        assert one.low < one.value < one.high
