import numpy as np
import pytest

from metrics.bootstrap import Label, draw_weights, estimate
from metrics.confusion import confusion_names, count_confusion, detection_statistic
from metrics.detection import TypedDetections, detection_scores

NAMES = ["background", "round", "long"]


def detections(paired_true=(), paired_predicted=(), unpaired_true=(), unpaired_predicted=()):
    lists = (paired_true, paired_predicted, unpaired_true, unpaired_predicted)
    return TypedDetections(*(np.array(types, dtype=np.int64) for types in lists))


def random_detections(seed):
    rng = np.random.default_rng(seed)
    num = rng.integers(0, 12, 3)
    return detections(
        rng.integers(-1, 3, num[0]),
        rng.integers(0, 3, num[0]),
        rng.integers(-1, 3, num[1]),
        rng.integers(0, 3, num[2]),
    )


def test_pairs_stand_at_their_types_and_the_rest_at_unpaired():
    counts = count_confusion(detections([1, 1, 2, -1], [1, 2, 2, 1], [2, 2], [1]), 3)
    assert confusion_names(NAMES) == ["background", "round", "long", "unlabelled", "unpaired"]
    assert counts.tolist() == [
        [0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 1, 0, 2],
        [0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
    ]


def test_every_nucleus_is_counted_once():
    for seed in range(20):
        image = random_detections(seed)
        num_pairs = len(image.paired_true)
        expected = num_pairs + len(image.unpaired_true) + len(image.unpaired_predicted)
        assert count_confusion(image, 3).sum() == expected


def test_scores_read_off_the_matrix_are_the_published_ones_on_200_random_images():
    images = [random_detections(seed) for seed in range(200)]
    confusions = np.stack([count_confusion(image, 3) for image in images])
    for chosen in [slice(0, 200), *(slice(index, index + 1) for index in range(200))]:
        expected = detection_scores(images[chosen], 3)
        statistic = detection_statistic(confusions[chosen], NAMES)
        found = [one.value for one in estimate(statistic)]
        wanted = [expected.f_d, expected.accuracy, *expected.f_types.values()]
        assert found == pytest.approx(wanted, nan_ok=True)
    assert list(statistic.labels) == [
        Label("F_d"),
        Label("accuracy"),
        Label("F_c", "round"),
        Label("F_c", "long"),
    ]


def test_intervals_pool_the_images_of_each_resample():
    images = [random_detections(seed) for seed in range(12)]
    weights = draw_weights(12, 100, seed=0)
    statistic = detection_statistic(np.stack([count_confusion(image, 3) for image in images]), NAMES)
    scores = [
        detection_scores([images[i] for i in np.repeat(np.arange(12), row.astype(int))], 3).f_d
        for row in weights
    ]
    found = estimate(statistic, weights)[0]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(scores, [2.5, 97.5])))
