"""The published known answers (samples A and B) come without their arrays: hand-made maps stand in."""

import itertools

import numpy as np
import pytest
from scipy.io import savemat

from benchmarks.statistics import disturb, fast_scores, make_label_map, make_pairs, slow_scores
from metrics.overlap import Overlap
from metrics.segmentation import aji, aji_plus, dice, dice2, f1_by_iou, panoptic_quality
from tests.metrics.slow import quality_counts

# areas 4, 3, 1 against 3, 4; nucleus 1 shares 3 pixels with predicted 1 (IoU 3/4), 2 shares 2 with 2 (2/5)
TRUE = np.array([[1, 1, 0, 0], [1, 1, 0, 2], [0, 0, 0, 2], [3, 0, 0, 2]])
PREDICTED = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])
SYMMETRIC = {"dice": dice, "dice2": dice2, "aji_plus": aji_plus, "pq": lambda o: panoptic_quality(o).pq}
ALL = {**SYMMETRIC, "aji": aji, "f1": lambda o: f1_by_iou(o)["F1@mean"]}


def random_pairs(num, size=96, num_nuclei=25):
    for seed in range(num):
        rng = np.random.default_rng(seed)
        true = make_label_map(rng, size, num_nuclei)
        yield true, disturb(true, rng)


def intervals(length, *ends):
    """A (1, length) label map; nucleus i covers ends[i - 1], half-open."""
    label_map = np.zeros((1, length), np.int32)
    for nucleus, (start, stop) in enumerate(ends, start=1):
        label_map[0, start:stop] = nucleus
    return label_map


def test_dice_is_that_of_the_two_foregrounds():
    assert dice(Overlap.of(TRUE, PREDICTED)) == 2 * (3 + 2) / ((4 + 3 + 1) + (3 + 4))


def test_dice2_pools_overlapping_pairs_alone():
    assert dice2(Overlap.of(TRUE, PREDICTED)) == 2 * (3 + 2) / ((4 + 3) + (3 + 4))


def test_aji_adds_nuclei_without_a_pair_to_the_union():
    assert aji(Overlap.of(TRUE, PREDICTED)) == (3 + 2) / (4 + 5 + 1)
    assert aji(Overlap.of(PREDICTED, TRUE)) == (3 + 2) / (4 + 5 + 1)


def test_aji_plus_equals_aji_where_no_nucleus_is_shared():
    assert aji_plus(Overlap.of(TRUE, PREDICTED)) == (3 + 2) / (4 + 5 + 1)


def test_panoptic_quality_counts_pairs_above_half():
    quality = panoptic_quality(Overlap.of(TRUE, PREDICTED))
    assert (quality.tp, quality.fp, quality.fn, quality.iou_sum) == (1, 1, 2, 3 / 4)
    assert quality.dq == 1 / (1 + 1 / 2 + 2 / 2)
    assert quality.sq == 3 / 4
    assert quality.pq == quality.dq * quality.sq


def test_a_lower_matching_iou_takes_more_pairs():
    quality = panoptic_quality(Overlap.of(TRUE, PREDICTED), match_iou=0.3)
    assert (quality.tp, quality.fp, quality.fn) == (2, 0, 1)
    assert quality.dq == pytest.approx(2 / (2 + 1 / 2))
    assert quality.sq == pytest.approx((3 / 4 + 2 / 5) / 2)


def test_an_iou_of_exactly_half_does_not_match():
    overlap = Overlap.of(intervals(4, (0, 2)), intervals(4, (0, 4)))
    assert overlap.ious.tolist() == [0.5]
    assert panoptic_quality(overlap).tp == 0
    assert panoptic_quality(overlap).sq == 0
    assert panoptic_quality(overlap, match_iou=0.49).tp == 1


def test_aji_uses_one_predicted_nucleus_twice_and_aji_plus_does_not():
    true, predicted = intervals(6, (0, 3), (3, 5)), intervals(6, (0, 5))
    assert aji(Overlap.of(true, predicted)) == (3 + 2) / (5 + 5)
    assert aji_plus(Overlap.of(true, predicted)) == 3 / (5 + 2)


def test_aji_takes_the_larger_of_two_pairs_with_equal_iou():
    """A nucleus of 6 pixels shares 2 with one of 2 pixels (2/6) and 4 with one of 10 (4/12)."""
    equal = Overlap.of(intervals(12, (0, 6)), intervals(12, (0, 2), (2, 12)))
    assert equal.ious.tolist() == [2 / 6, 4 / 12]
    assert aji(equal) == 4 / (12 + 2)


def test_the_pairing_of_aji_plus_is_maximal_not_greedy():
    """The best single pair (6/14) would leave the two others (4/14 and 4/12) without a partner."""
    true, predicted = intervals(20, (4, 14), (14, 20)), intervals(20, (0, 8), (8, 18))
    assert aji_plus(Overlap.of(true, predicted)) == (4 + 4) / (14 + 12)
    quality = panoptic_quality(Overlap.of(true, predicted), match_iou=0.2)
    assert quality.tp == 2
    assert quality.iou_sum == pytest.approx(4 / 14 + 4 / 12)


def test_the_pairing_has_the_largest_total_iou_of_all_pairings():
    rng = np.random.default_rng(3)
    for _ in range(30):
        true, predicted = rng.integers(0, 5, (5, 5)), rng.integers(0, 5, (5, 5))
        overlap = Overlap.of(true, predicted)
        matrix = np.zeros((4, 4))
        matrix[overlap.true_ids[overlap.rows] - 1, overlap.predicted_ids[overlap.columns] - 1] = overlap.ious
        best = max(matrix[range(4), order].sum() for order in itertools.permutations(range(4)))
        assert panoptic_quality(overlap, match_iou=0).iou_sum == pytest.approx(best)


@pytest.mark.parametrize("score", ALL.values(), ids=ALL.keys())
def test_identical_maps_score_exactly_one(score):
    for true, _ in random_pairs(5):
        assert score(Overlap.of(true, true)) == 1


@pytest.mark.parametrize("score", ALL.values(), ids=ALL.keys())
def test_renaming_nuclei_changes_no_score(score):
    for true, predicted in random_pairs(20):
        rng = np.random.default_rng(7)
        renamed = np.concatenate([[0], rng.permutation(np.arange(1, 200) * 1_000_003)])
        assert score(Overlap.of(renamed[true], renamed[predicted])) == pytest.approx(
            score(Overlap.of(true, predicted)), abs=1e-12
        )


@pytest.mark.parametrize("score", SYMMETRIC.values(), ids=SYMMETRIC.keys())
def test_symmetric_scores_do_not_change_when_truth_and_prediction_swap(score):
    for true, predicted in random_pairs(20):
        assert score(Overlap.of(true, predicted)) == pytest.approx(score(Overlap.of(predicted, true)))


def test_scores_equal_the_definition_with_one_mask_per_nucleus():
    for true, predicted in random_pairs(200):
        assert fast_scores(true, predicted) == pytest.approx(slow_scores(true, predicted), abs=1e-12)


def test_dice_equals_the_definition_on_two_masks():
    for true, predicted in random_pairs(10):
        shared = np.sum((true > 0) & (predicted > 0))
        expected = 2 * shared / (np.sum(true > 0) + np.sum(predicted > 0))
        assert dice(Overlap.of(true, predicted)) == pytest.approx(expected)


@pytest.mark.parametrize("score", ALL.values(), ids=ALL.keys())
def test_scores_are_undefined_without_nuclei_and_zero_where_one_map_is_empty(score):
    empty = np.zeros_like(TRUE)
    assert np.isnan(score(Overlap.of(empty, empty)))
    assert score(Overlap.of(TRUE, empty)) == 0
    assert score(Overlap.of(empty, TRUE)) == 0


@pytest.mark.parametrize("score", ALL.values(), ids=ALL.keys())
def test_nuclei_that_never_meet_score_zero(score):
    assert score(Overlap.of(intervals(9, (0, 4)), intervals(9, (4, 9)))) == 0


def test_segmentation_quality_is_undefined_without_nuclei_and_zero_without_matches():
    empty = np.zeros_like(TRUE)
    assert np.isnan(panoptic_quality(Overlap.of(empty, empty)).sq)
    assert panoptic_quality(Overlap.of(TRUE, empty)).sq == 0


@pytest.mark.parametrize("match_iou", [-0.1, 1, float("nan")])
def test_a_matching_iou_outside_its_range_is_refused(match_iou):
    with pytest.raises(ValueError, match="is not an IoU"):
        panoptic_quality(Overlap.of(TRUE, PREDICTED), match_iou)


def test_f1_counts_pairs_above_each_iou():
    """Of 3 true and 2 predicted nuclei one pair has IoU 3/4: F1 is 2 / 5 up to 0.7 and 0 from 0.8."""
    scores = f1_by_iou(Overlap.of(TRUE, PREDICTED))
    assert list(scores) == ["F1@0.5", "F1@0.6", "F1@0.7", "F1@0.8", "F1@0.9", "F1@mean"]
    assert list(scores.values()) == pytest.approx([0.4, 0.4, 0.4, 0, 0, 3 * 0.4 / 5])


def test_f1_at_half_is_detection_quality():
    for true, predicted in random_pairs(20):
        overlap = Overlap.of(true, predicted)
        assert f1_by_iou(overlap)["F1@0.5"] == panoptic_quality(overlap).dq


def test_f1_equals_the_definition_on_random_pairs():
    for true, predicted in random_pairs(20, size=48, num_nuclei=6):
        scores = f1_by_iou(Overlap.of(true, predicted))
        for iou in (0.5, 0.6, 0.7, 0.8, 0.9):
            tp, fp, fn, _ = quality_counts(true, predicted, iou)
            assert scores[f"F1@{iou}"] == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_the_benchmark_takes_consep_where_it_is_told_to_and_says_where_it_is_not(tmp_path, capsys):
    labels = tmp_path / "Test" / "Labels"
    labels.mkdir(parents=True)
    savemat(
        labels / "image.mat", {"inst_map": make_label_map(np.random.default_rng(0), size=60, num_nuclei=3)}
    )
    assert [name for name, _ in make_pairs([], tmp_path)] == ["synthetic", "image (disturbed)"]
    assert capsys.readouterr().out == ""
    assert [name for name, _ in make_pairs([], tmp_path / "absent")] == ["synthetic"]
    assert "absent/Test/Labels: CoNSeP's images are left out; give its folder with --consep=DIR" in (
        capsys.readouterr().out
    )
