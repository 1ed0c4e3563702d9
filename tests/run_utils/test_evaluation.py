import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from metrics.detection import TypedDetections
from run_utils.evaluation import TypeScheme, evaluate, match_types, score_pair, score_types

TRUE = np.array([[1, 1, 0, 0], [1, 1, 0, 2], [0, 0, 0, 2], [3, 0, 0, 2]], dtype=np.int32)
PREDICTED = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]], dtype=np.int32)
EMPTY = np.zeros_like(TRUE)
CONSEP_TRAIN = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "consep" / "Train" / "Labels"


@pytest.fixture
def folders(tmp_path):
    for name in ("true", "predicted"):
        (tmp_path / name).mkdir()
    return tmp_path / "true", tmp_path / "predicted"


def save(folder, stem, label_map, types=None):
    arrays = {"inst_map": label_map}
    if types is not None:
        arrays["inst_type"] = np.array(types).reshape(-1, 1)
    savemat(folder / f"{stem}.mat", arrays)


def test_a_pair_of_maps_gives_seven_scores():
    scores = score_pair(TRUE, PREDICTED)
    assert list(scores) == ["DICE1", "DICE2", "AJI", "AJI+", "DQ", "SQ", "PQ"]
    expected = {"DICE1": 10 / 15, "DICE2": 10 / 14, "AJI": 5 / 10, "AJI+": 5 / 10, "DQ": 2 / 5, "SQ": 3 / 4}
    assert scores == pytest.approx({**expected, "PQ": 2 / 5 * 3 / 4})


def test_typed_arrays_are_scored_without_files():
    true = np.array([[0.0, 0.0], [50.0, 0.0]]), np.array([1, 2])
    predicted = np.array([[3.0, 0.0], [50.0, 5.0], [90.0, 90.0]]), np.array([1, 1, 2])
    scores = score_types([match_types(true, predicted, radius=12)], ["background", "round", "long"])
    assert scores == {
        "F_d": 2 * 2 / (2 * 2 + 1),
        "accuracy": 1 / 2,
        "F_round": 2 * 1 / (2 * 1 + 2 * 1),
        "F_long": 0 / (2 * 1 + 1),
    }


def test_instance_scores_are_averaged_over_images_and_written(folders):
    true_dir, predicted_dir = folders
    save(true_dir, "half", TRUE)
    save(predicted_dir, "half", PREDICTED)
    save(true_dir, "same", TRUE)
    save(predicted_dir, "same", TRUE)
    report = evaluate(true_dir, predicted_dir)
    assert report.exit_status == 0
    assert report.images["half"]["AJI"] == 0.5
    assert report.overall["AJI"] == (0.5 + 1) / 2
    assert report.table.splitlines()[-1].split()[0] == "mean"
    with (predicted_dir / "stats.csv").open(newline="") as file:
        assert [row["AJI"] for row in csv.DictReader(file)] == ["0.5", "1.0", "0.75"]
    assert json.loads((predicted_dir / "stats.json").read_text())["overall"]["AJI"] == 0.75


def test_an_image_without_nuclei_is_left_out_of_the_mean_and_named(folders):
    for folder in folders:
        save(folder, "full", TRUE)
        save(folder, "nothing", EMPTY)
    report = evaluate(*folders)
    assert report.left_out == ["nothing"]
    assert report.overall["PQ"] == 1
    assert "1 of 2 without nuclei, left out of the mean: nothing" in report.table
    assert json.loads((folders[1] / "stats.json").read_text())["images"]["nothing"]["PQ"] is None
    assert report.exit_status == 0


def test_missing_files_on_either_side_are_listed_and_the_rest_is_measured(folders, tmp_path):
    true_dir, predicted_dir = folders
    for folder in folders:
        save(folder, "both", TRUE)
    save(true_dir, "only_true", TRUE)
    save(predicted_dir, "only_predicted", TRUE)
    report = evaluate(true_dir, predicted_dir, output_dir=tmp_path / "new" / "scores")
    assert (report.missing_predicted, report.missing_true) == (["only_true"], ["only_predicted"])
    assert report.overall["PQ"] == 1
    assert report.exit_status == 1
    assert "1 without a prediction: only_true" in report.table
    assert {path.name for path in (tmp_path / "new" / "scores").iterdir()} >= {"stats.csv", "stats.json"}


@pytest.mark.parametrize("mode", ["instance", "type"])
def test_a_pair_that_cannot_be_measured_is_listed_and_the_rest_is_measured(folders, mode):
    true_dir, predicted_dir = folders
    for folder in folders:
        save(folder, "good", TRUE, [1, 2, 1])
    save(true_dir, "bad", TRUE, [1, 2, 1])
    (predicted_dir / "bad.mat").write_text("no mat file")
    report = evaluate(true_dir, predicted_dir, mode=mode)
    assert list(report.failed) == ["bad"]
    assert "failed: bad: " in report.table
    assert report.exit_status == 1
    assert list(report.images) == ["good"]


def test_maps_of_different_size_fail_with_both_sizes(folders):
    save(folders[0], "a", TRUE)
    save(folders[1], "a", PREDICTED[:3])
    with pytest.raises(ValueError, match=r"none of 1 images .* \(4, 4\) and predicted label map \(3, 4\)"):
        evaluate(*folders)


def test_type_counts_are_pooled_over_images_not_averaged(folders):
    """First image: types right, right, wrong. Second: one right and, far from it, one nucleus missed."""
    true_dir, predicted_dir = folders
    far = np.zeros((60, 60), np.int32)
    far[:2, :2], far[50:52, 50:52] = 1, 2
    save(true_dir, "first", TRUE, [1, 2, 1])
    save(predicted_dir, "first", TRUE, [1, 2, 2])
    save(true_dir, "second", far, [2, 1])
    save(predicted_dir, "second", np.where(far == 1, 1, 0), [2])
    report = evaluate(true_dir, predicted_dir, mode="type", types=TypeScheme(["background", "round", "long"]))
    assert report.overall == {
        "F_d": 2 * 4 / (2 * 4 + 1),
        "accuracy": 3 / 4,
        "F_round": 2 * 1 / (2 * 1 + 2 * 0 + 2 * 1 + 1),
        "F_long": 2 * 2 / (2 * 2 + 2 * 1),
    }
    assert report.images["first"]["accuracy"] == 2 / 3
    assert report.table.splitlines()[-1].split()[0] == "all"


def test_two_images_without_nuclei_are_no_detection(folders):
    for folder in folders:
        save(folder, "nothing", EMPTY, np.zeros(0))
        save(folder, "full", TRUE, [1, 1, 1])
    save(folders[1], "full", EMPTY, np.zeros(0))
    assert evaluate(*folders, mode="type").overall["F_d"] == 0


def test_the_radius_decides_what_is_found(folders):
    near, moved = np.zeros((40, 40), np.int32), np.zeros((40, 40), np.int32)
    near[5:8, 5:8], moved[5:8, 14:17] = 1, 1  # 9 pixels apart
    save(folders[0], "a", near, [1])
    save(folders[1], "a", moved, [1])
    assert evaluate(*folders, mode="type", radius=12).overall["F_d"] == 1
    assert evaluate(*folders, mode="type", radius=6).overall["F_d"] == 0


def test_a_type_without_a_name_is_an_error_that_names_it(folders):
    for folder in folders:
        save(folder, "a", TRUE, [1, 2, 7])
    with pytest.raises(ValueError, match="type 7 has no name"):
        evaluate(*folders, mode="type", types=TypeScheme(["background", "round", "long"]))


def test_types_of_the_truth_that_count_as_one_are_merged(folders):
    save(folders[0], "a", TRUE, [3, 4, 7])
    save(folders[1], "a", TRUE, [3, 3, 4])
    raw_seven = TypeScheme(merged=[0, 1, 2, 3, 3, 4, 4, 4])
    assert evaluate(*folders, mode="type", types=raw_seven).overall["accuracy"] == 1
    with pytest.raises(ValueError, match="type 7 has no place"):
        evaluate(*folders, mode="type", types=TypeScheme(merged=[0, 1, 2, 3, 3]))


@pytest.mark.parametrize("types", [None, TypeScheme()])
def test_types_without_names_go_by_number(folders, types):
    for folder in folders:
        save(folder, "a", TRUE, [1, 3, 1])
    scores = evaluate(*folders, mode="type", types=types).overall
    assert list(scores) == ["F_d", "accuracy", "F_1", "F_2", "F_3"]
    assert (scores["F_1"], scores["F_3"]) == (1, 1)
    assert np.isnan(scores["F_2"])


def test_two_files_are_compared_whatever_their_names(folders):
    np.save(folders[0] / "truth.npy", TRUE)
    save(folders[1], "prediction", PREDICTED)
    report = evaluate(folders[0] / "truth.npy", folders[1] / "prediction.mat")
    assert report.images["truth"]["AJI"] == 0.5
    assert (folders[1] / "stats.csv").exists()


def test_one_file_is_compared_with_its_namesake_in_a_directory(folders):
    for stem in ("a", "b"):
        for folder in folders:
            save(folder, stem, TRUE)
    report = evaluate(folders[0] / "a.mat", folders[1])
    assert list(report.images) == ["a"]
    assert report.exit_status == 0


def test_bad_settings_are_refused(folders, tmp_path):
    save(folders[0], "a", TRUE)
    save(folders[1], "b", TRUE)
    with pytest.raises(ValueError, match="instance, type, all"):
        evaluate(*folders, mode="both")
    with pytest.raises(FileNotFoundError, match="stem"):
        evaluate(*folders)
    with pytest.raises(FileNotFoundError, match="absent"):
        evaluate(folders[0], tmp_path / "absent")


def test_no_images_score_nothing():
    assert np.isnan(score_types([], ["background", "round"])["F_d"])
    nothing = TypedDetections(*(np.zeros(0, np.int64) for _ in range(4)))
    assert np.isnan(score_types([nothing], ["background", "round"])["F_round"])


@pytest.mark.skipif(
    not CONSEP_TRAIN.is_dir(), reason="CoNSeP is not beside the checkout (../shared/data/consep)"
)
def test_real_annotations_against_themselves_score_one(tmp_path):
    for stem in ("train_5", "train_11"):
        path = CONSEP_TRAIN / f"{stem}.mat"
        assert set(evaluate(path, path, output_dir=tmp_path).overall.values()) == {1}
        overall = evaluate(path, path, mode="type", output_dir=tmp_path).overall
        assert overall["F_d"] == overall["accuracy"] == 1
        assert all(score == 1 for score in overall.values() if not np.isnan(score))
