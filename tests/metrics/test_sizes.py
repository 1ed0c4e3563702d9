import numpy as np
import pytest

from metrics.bootstrap import estimate
from metrics.matches import Matches
from metrics.overlap import Overlap
from metrics.panoptic import count_binary
from metrics.sizes import count_sizes, size_edges, size_names, size_statistic
from tests.metrics import slow

# areas 4, 3, 1 against 3, 4; nucleus 1 matches with IoU 3/4, the others with none
TRUE = np.array([[1, 1, 0, 0], [1, 1, 0, 2], [0, 0, 0, 2], [3, 0, 0, 2]])
PREDICTED = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])


def test_nuclei_count_in_the_bin_of_their_true_area_or_else_of_their_own():
    counts = count_sizes(Matches.of(Overlap.of(TRUE, PREDICTED)), np.array([2.0, 4.0]))
    assert counts.tolist() == [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 3 / 4]]
    found = estimate(size_statistic(counts[None], np.array([2.0, 4.0])))
    assert [one.value for one in found] == [0, 0, (3 / 4) / (1 + 1 / 2)]


def test_bins_hold_a_fifth_of_the_nuclei_each():
    areas = np.random.default_rng(0).permutation(np.arange(10, 110))
    edges = size_edges(areas)
    assert np.bincount(np.searchsorted(edges, areas, side="right")).tolist() == [20] * 5


def test_equal_areas_and_none_have_one_bin():
    assert size_edges(np.full(9, 30)).tolist() == []
    assert size_edges(np.zeros(0)).tolist() == []
    assert size_names([]) == ["any size"]
    assert size_names([50, 80]) == ["below 50 px", "50 to 79 px", "from 80 px"]


def test_bins_together_hold_every_nucleus():
    edges = np.array([20.0, 60.0, 90.0])
    for (true, _), (predicted, _) in slow.random_typed_pairs(50):
        matches = Matches.of(Overlap.of(true, predicted))
        assert count_sizes(matches, edges).sum(axis=0) == pytest.approx(count_binary(matches))
