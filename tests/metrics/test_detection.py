import itertools

import numpy as np
import pytest

from metrics.detection import (
    UNLABELLED,
    TypedDetections,
    detect_types,
    detection_scores,
    pair_centroids,
    pool_detections,
)


def detections(paired_true=(), paired_predicted=(), unpaired_true=(), unpaired_predicted=()):
    lists = (paired_true, paired_predicted, unpaired_true, unpaired_predicted)
    return TypedDetections(*(np.array(types, dtype=np.int64) for types in lists))


def test_near_centroids_are_paired_and_far_ones_left_alone():
    true = np.array([[0.0, 0.0], [50.0, 50.0], [100.0, 0.0]])
    predicted = np.array([[100.0, 5.0], [0.0, 3.0], [50.0, 80.0]])
    pairing = pair_centroids(true, predicted, 12)
    assert pairing.pairs.tolist() == [[0, 1], [2, 0]]
    assert pairing.unpaired_true.tolist() == [1]
    assert pairing.unpaired_predicted.tolist() == [2]


def test_a_distance_of_exactly_the_radius_is_a_pair():
    assert len(pair_centroids(np.array([[0, 0]]), np.array([[0, 12]]), 12).pairs) == 1
    assert len(pair_centroids(np.array([[0, 0]]), np.array([[0, 12.001]]), 12).pairs) == 0


def test_a_nucleus_is_paired_once():
    pairing = pair_centroids(np.array([[0, 0], [0, 4]]), np.array([[0, 1]]), 12)
    assert pairing.pairs.tolist() == [[0, 0]]
    assert pairing.unpaired_true.tolist() == [1]


def test_the_radius_is_applied_after_the_assignment_as_published():
    """The nearest two, true 1 and predicted 0, are 1 apart; pairing them leaves 23 for the others, 24 in all.

    The other way round it is sqrt(101) + 13 = 23.05, which wins; its pair of 13 is then too far.
    """
    true = np.array([[0.0, 0.0], [0.0, 10.0]])
    predicted = np.array([[1.0, 10.0], [0.0, 23.0]])
    assert np.sqrt(101) + 13 < 1 + 23
    pairing = pair_centroids(true, predicted, 12)
    assert pairing.pairs.tolist() == [[0, 0]]
    assert pairing.unpaired_true.tolist() == [1]


def test_the_pairing_has_the_smallest_total_distance():
    rng = np.random.default_rng(0)
    for _ in range(30):
        true, predicted = rng.uniform(0, 20, (4, 2)), rng.uniform(0, 20, (6, 2))
        distance = np.linalg.norm(true[:, None] - predicted[None], axis=-1)
        best = min(itertools.permutations(range(6), 4), key=lambda order: distance[range(4), order].sum())
        expected = [[row, column] for row, column in enumerate(best) if distance[row, column] <= 5]
        assert pair_centroids(true, predicted, 5).pairs.tolist() == expected


def test_every_nucleus_is_in_one_list():
    rng = np.random.default_rng(1)
    pairing = pair_centroids(rng.uniform(0, 100, (40, 2)), rng.uniform(0, 100, (55, 2)), 12)
    assert sorted([*pairing.pairs[:, 0], *pairing.unpaired_true]) == list(range(40))
    assert sorted([*pairing.pairs[:, 1], *pairing.unpaired_predicted]) == list(range(55))


@pytest.mark.parametrize("empty", [np.zeros((0, 2)), np.zeros(0), []])
def test_an_empty_side_leaves_all_of_the_other_unpaired(empty):
    some = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert pair_centroids(empty, some, 12).unpaired_predicted.tolist() == [0, 1]
    assert pair_centroids(some, empty, 12).unpaired_true.tolist() == [0, 1]
    nothing = pair_centroids(empty, empty, 12)
    assert nothing.pairs.shape == (0, 2)
    assert len(nothing.unpaired_true) == len(nothing.unpaired_predicted) == 0


@pytest.mark.parametrize(
    ("true", "radius", "said"),
    [
        (np.zeros((3, 3)), 12, "give \\(K, 2\\)"),
        (np.array([[np.nan, 0]]), 12, "nan or infinity"),
        (np.zeros((3, 2)), -1, "radius=-1"),
        (np.zeros((3, 2)), float("nan"), "radius=nan"),
    ],
)
def test_bad_centroids_and_radii_are_refused(true, radius, said):
    with pytest.raises(ValueError, match=said):
        pair_centroids(true, np.zeros((2, 2)), radius)


def test_types_follow_the_pairing():
    pairing = pair_centroids(np.array([[0, 0], [50, 50]]), np.array([[90, 90], [0, 1]]), 12)
    found = detect_types(pairing, np.array([3, 2]), np.array([1, 4]))
    assert (found.paired_true.tolist(), found.paired_predicted.tolist()) == ([3], [4])
    assert (found.unpaired_true.tolist(), found.unpaired_predicted.tolist()) == ([2], [1])
    with pytest.raises(ValueError, match="one type per centroid"):
        detect_types(pairing, np.array([3]), np.array([1, 4]))


def test_scores_are_the_published_ratios_of_pooled_counts():
    """Four pairs (1-1, 1-1, 1-2, 2-2), two missed (1, 2), one invented (2)."""
    first = detections((1, 1), (1, 2), (1,), ())
    second = detections((1, 2), (1, 2), (2,), (2,))
    scores = detection_scores([first, second], num_types=4)
    assert scores.f_d == 2 * 4 / (2 * 4 + 1 + 2)
    assert scores.accuracy == 3 / 4
    assert scores.f_types[1] == 2 * 2 / (2 * 2 + 2 * 0 + 2 * 1 + 0 + 1)
    assert scores.f_types[2] == 2 * 1 / (2 * 1 + 2 * 1 + 2 * 0 + 1 + 1)
    assert np.isnan(scores.f_types[3])
    assert (scores.num_pairs, scores.num_unpaired_true, scores.num_unpaired_predicted) == (4, 2, 1)


def test_true_negatives_do_not_enter_a_type_score():
    """A hundred right pairs of another type leave the score of type 1 as it was."""
    few = detections((1, 1), (1, 2))
    many = detections((1, 1, *[2] * 100), (1, 2, *[2] * 100))
    expected = 2 * 1 / (2 * 1 + 2 * 1)
    assert detection_scores([few], 3).f_types[1] == detection_scores([many], 3).f_types[1] == expected


def test_unlabelled_true_nuclei_are_found_but_judged_by_no_type():
    found = detections((1, UNLABELLED, UNLABELLED), (1, 1, 2), (UNLABELLED,), ())
    scores = detection_scores([found], 3)
    assert scores.f_d == 2 * 3 / (2 * 3 + 1)
    assert scores.accuracy == 1 / 1
    assert scores.f_types[1] == 1
    assert np.isnan(scores.f_types[2])


def test_a_pair_with_background_type_is_an_error():
    scores = detection_scores([detections((1, 1), (1, 0))], 2)
    assert scores.accuracy == 1 / 2
    assert scores.f_types == {1: 2 * 1 / (2 * 1 + 2 * 1)}


def test_a_type_that_only_the_prediction_holds_scores_zero():
    assert detection_scores([detections((), (), (), (1,))], 2).f_types == {1: 0}


def test_two_empty_images_are_no_true_positive():
    scores = detection_scores([detections(), detections()], 3)
    assert scores.num_pairs == 0
    assert np.isnan([scores.f_d, scores.accuracy, *scores.f_types.values()]).all()
    assert np.isnan(detection_scores([], 3).f_d)


def test_perfect_detections_score_one():
    scores = detection_scores([detections((1, 2, 3), (1, 2, 3))], 4)
    assert (scores.f_d, scores.accuracy, scores.f_types) == (1, 1, {1: 1, 2: 1, 3: 1})


def test_pooling_no_images_gives_no_nuclei():
    assert len(pool_detections([]).paired_true) == 0
