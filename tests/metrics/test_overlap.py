import numpy as np
import pytest

from metrics.overlap import Overlap

TRUE = np.array([[1, 1, 0, 0], [1, 1, 0, 2], [0, 0, 0, 2], [3, 0, 0, 2]])
PREDICTED = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])


def counted(true, predicted):
    """The same table, from one set of pixels per nucleus."""
    true_sets = {i: set(np.flatnonzero(true.ravel() == i).tolist()) for i in np.unique(true).tolist() if i}
    predicted_sets = {
        i: set(np.flatnonzero(predicted.ravel() == i).tolist()) for i in np.unique(predicted).tolist() if i
    }
    return {
        (i, j): len(true_sets[i] & predicted_sets[j])
        for i in true_sets
        for j in predicted_sets
        if true_sets[i] & predicted_sets[j]
    }


def listed(overlap):
    pairs = zip(
        overlap.true_ids[overlap.rows].tolist(), overlap.predicted_ids[overlap.columns].tolist(), strict=True
    )
    return dict(zip(pairs, overlap.intersections.tolist(), strict=True))


def test_a_small_table_holds_areas_intersections_and_ious():
    overlap = Overlap.of(TRUE, PREDICTED)
    assert overlap.true_ids.tolist() == [1, 2, 3]
    assert overlap.predicted_ids.tolist() == [1, 2]
    assert overlap.true_areas.tolist() == [4, 3, 1]
    assert overlap.predicted_areas.tolist() == [3, 4]
    assert listed(overlap) == {(1, 1): 3, (2, 2): 2}
    assert overlap.unions.tolist() == [4 + 3 - 3, 3 + 4 - 2]
    assert overlap.ious.tolist() == [3 / 4, 2 / 5]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_every_integer_type_gives_the_same_table(dtype):
    assert listed(Overlap.of(TRUE.astype(dtype), PREDICTED.astype(dtype))) == {(1, 1): 3, (2, 2): 2}


@pytest.mark.parametrize(
    "new_ids", [(0, 2, 7, 9), (0, 70_000, 65_536, 80_000), (0, 2**62, 5, 2**63 - 1), (0, 15, 16, 17)]
)
def test_ids_may_have_gaps_and_any_size(new_ids):
    new_ids = np.array(new_ids, dtype=np.int64)
    renamed = {(int(new_ids[1]), 1): 3, (int(new_ids[2]), 2): 2}
    assert listed(Overlap.of(new_ids[TRUE], PREDICTED)) == renamed
    assert listed(Overlap.of(PREDICTED, new_ids[TRUE])) == {
        (j, i): count for (i, j), count in renamed.items()
    }


def test_maps_without_background_keep_their_first_nucleus():
    for first in (1, 10**12):
        full = np.array([[first, first], [first, first + 1]])
        overlap = Overlap.of(full, full)
        assert overlap.true_ids.tolist() == [first, first + 1]
        assert overlap.intersections.tolist() == [3, 1]


def test_the_table_equals_sets_of_pixels_on_random_maps():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shape = tuple(rng.integers(1, 20, 2))
        true, predicted = rng.integers(0, 6, shape), rng.integers(0, 9, shape) * 11
        assert listed(Overlap.of(true, predicted)) == counted(true, predicted)


def test_a_map_that_is_not_contiguous_gives_the_same_table():
    assert listed(Overlap.of(np.asfortranarray(TRUE), PREDICTED.T.copy().T)) == {(1, 1): 3, (2, 2): 2}


@pytest.mark.parametrize("shape", [(4, 4), (0, 5), (0, 0)])
def test_empty_maps_give_an_empty_table(shape):
    overlap = Overlap.of(np.zeros(shape, np.int32), np.zeros(shape, np.int32))
    assert overlap.is_empty
    assert len(overlap.true_ids) == len(overlap.rows) == len(overlap.ious) == 0


def test_a_map_against_an_empty_one_has_areas_but_no_pairs():
    overlap = Overlap.of(TRUE, np.zeros_like(TRUE))
    assert not overlap.is_empty
    assert overlap.true_areas.tolist() == [4, 3, 1]
    assert len(overlap.rows) == 0


@pytest.mark.parametrize(
    ("true", "predicted", "said"),
    [
        (TRUE, PREDICTED[:3], "differ in shape"),
        (TRUE, -PREDICTED, "holds id -2"),
        (TRUE.astype(float), PREDICTED, "true label map is float64"),
        (TRUE, PREDICTED > 0, "predicted label map is bool"),
        (TRUE[None], PREDICTED, r"must be \(H, W\)"),
        (TRUE.astype(np.uint64) * 2**62, PREDICTED, "must fit int64"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(true, predicted, said):
    with pytest.raises(ValueError, match=said):
        Overlap.of(true, predicted)
