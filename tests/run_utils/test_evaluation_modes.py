"""Every statistic of a run, two runs beside each other, and what is done about bad input."""

import csv
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.io import savemat

from config.schema import EvaluateSettings
from run_utils.evaluation import Pooling, TypeScheme, evaluate, evaluate_settings
from run_utils.image_nuclei import ImageNuclei
from run_utils.outputs import write_output
from run_utils.report.files import write_report
from tests.annotated import make_annotated, write_consep
from tests.published.generic import publish_colour_masks, publish_folder
from tests.published.outlined import publish_coco, publish_geojson
from tests.results import ellipses, make_result

TRUE = np.array([[1, 1, 0, 0], [1, 1, 0, 2], [0, 0, 0, 2], [3, 0, 0, 2]], dtype=np.int32)
PREDICTED = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]], dtype=np.int32)
EMPTY = np.zeros_like(TRUE)
SCHEME = TypeScheme(["background", "round", "long"])
FEW = Pooling(num_resamples=50)


@pytest.fixture
def folders(tmp_path):
    for name in ("true", "predicted", "other"):
        (tmp_path / name).mkdir()
    return tmp_path / "true", tmp_path / "predicted", tmp_path / "other"


def save(folder, name, label_map, types=None, **arrays):
    if types is not None:
        arrays["inst_type"] = np.array(types).reshape(-1, 1)
    savemat(folder / f"{name}.mat", {"inst_map": label_map, **arrays})


def values(rows):
    return {(row.score, row.group): row.value for row in rows}


def test_every_statistic_of_a_hand_made_image(folders):
    """Nucleus 1 matches with IoU 3/4; 2 meets the predicted 2, of its type, with IoU 2/5; 3, of type 1, is missed."""
    save(folders[0], "a", TRUE, [1, 2, 1])
    save(folders[1], "a", PREDICTED, [1, 2])
    report = evaluate(*folders[:2], mode="all", types=SCHEME)
    expected = {
        ("DICE1", ""): 2 * 5 / 15,
        ("DICE2", ""): 2 * 5 / 14,
        ("AJI", ""): 5 / 10,
        ("AJI+", ""): 5 / 10,
        ("DQ", ""): 2 / 5,
        ("SQ", ""): 3 / 4,
        ("PQ", ""): 2 / 5 * 3 / 4,
        **{(f"F1@{iou}", ""): 2 / 5 for iou in (0.5, 0.6, 0.7)},
        **{(f"F1@{iou}", ""): 0 for iou in (0.8, 0.9)},
        ("F1@mean", ""): 3 * (2 / 5) / 5,
        ("F_d", ""): 4 / 5,
        ("accuracy", ""): 1,
        ("F_c", "round"): 2 / 3,
        ("F_c", "long"): 1,
        ("R2", ""): math.nan,
        ("R2", "round"): math.nan,
        ("R2", "long"): math.nan,
        ("mPQ+", ""): 1 / 4,
        ("PQ+", "round"): (3 / 4) / (1 + 1 / 2),
        ("PQ+", "long"): 0,
        ("count_bias", ""): -1,
        ("count_bias", "round"): -1,
        ("count_bias", "long"): 0,
        ("area_bias", ""): -1,
        ("area_bias", "round"): -1,
        ("area_bias", "long"): math.nan,
    }
    for suffix in ("", "_strict"):
        expected |= {
            (f"mPQ{suffix}", ""): 1 / 4,
            (f"bPQ{suffix}", ""): (3 / 4) / (1 + 1 / 2 + 2 / 2),
            (f"PQ{suffix}", "round"): (3 / 4) / (1 + 1 / 2),
            (f"PQ{suffix}", "long"): 0,
        }
    rows = [row for row in report.scores if "limit" not in row.score and row.section != "size"]
    found = values(rows)
    assert found == pytest.approx(expected, nan_ok=True)
    assert report.confusion == [[0] * 5, [0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0] * 5, [0] * 5]
    assert report.counts == {"a": ([3, 2, 1], [2, 1, 1])}
    assert report.exit_status == 0


def test_the_table_keeps_the_published_scores_first_and_in_order(folders):
    for folder in folders:
        save(folder, "a", TRUE, [1, 2, 1])
    published = ["DICE1", "DICE2", "AJI", "AJI+", "DQ", "SQ", "PQ"]
    assert list(evaluate(*folders[:2]).overall)[:7] == published
    typed = ["F_d", "accuracy", "F_round", "F_long"]
    assert list(evaluate(*folders[:2], mode="type", types=SCHEME).overall) == typed
    both = list(evaluate(*folders[:2], mode="all", types=SCHEME).overall)
    assert (both[:7], both[-4:]) == (published, typed)


def test_all_that_files_without_types_allow_is_instance(folders):
    for folder in folders:
        save(folder, "a", TRUE)
    report = evaluate(*folders[:2], mode="all", pooling=FEW)
    assert report.overall["PQ"] == 1
    assert {row.section for row in report.scores} == {"instance", "panoptic", "size", "agreement"}
    assert report.confusion == []


def test_tables_are_written_as_csv_and_json(folders):
    for name in ("a", "b", "c"):
        save(folders[0], name, TRUE, [1, 2, 1])
    for name, label_map in (("a", PREDICTED), ("b", TRUE), ("c", EMPTY)):
        save(folders[1], name, label_map, np.ones(label_map.max()))
    report = evaluate(*folders[:2], mode="all", types=SCHEME, pooling=FEW)
    with (folders[1] / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["score"] for row in rows] == [row.score for row in report.scores]
    pq = next(row for row in rows if row["score"] == "PQ" and not row["group"])
    assert float(pq["value"]) == pytest.approx((0.3 + 1 + 0) / 3)
    assert 0 <= float(pq["low"]) < float(pq["value"]) < float(pq["high"]) <= 1
    with (folders[1] / "confusion.csv").open(newline="") as file:
        table = list(csv.reader(file))
    assert table[0][1:] == ["background", "round", "long", "unlabelled", "unpaired"]
    assert [row[0] for row in table[1:]] == table[0][1:]
    document = json.loads((folders[1] / "stats.json").read_text())
    assert document["scores"][0].keys() == {"section", "score", "group", "value", "low", "high"}
    assert document["counts"]["a"] == {"true": [3, 2, 1], "predicted": [2, 2, 0]}
    assert "95 % interval" in report.scores_table


def test_results_beside_the_predictions_are_not_taken_for_predictions(folders):
    write_output(make_result(ellipses()), folders[1], "json")
    save(folders[0], "tile 1", ellipses())
    where = folders[1] / "json"
    assert evaluate(folders[0], where).exit_status == 0
    assert evaluate(folders[0], where).exit_status == 0


@pytest.mark.parametrize("name", ["json", "geojson", "qupath", "parquet", "store", "mat"])
def test_predictions_of_every_output_score_one_against_themselves(folders, name):
    result = make_result(ellipses())
    nuclei = result.whole_nuclei()
    save(folders[0], "tile 1", result.whole_label_map(), nuclei.types)
    write_output(result, folders[1], name)
    report = evaluate(*folders[:2], mode="all")
    assert set(report.overall.values()) == {1}
    assert values(report.scores)["mPQ+", ""] == 1


def test_tissues_come_from_a_file_and_every_image_needs_one(folders, tmp_path):
    for name, label_map in (("a", TRUE), ("b", TRUE), ("c", PREDICTED)):
        save(folders[0], name, TRUE)
        save(folders[1], name, label_map)
    (tmp_path / "tissues.csv").write_text("name,tissue\na,skin\nb,skin\nc,lung\n")
    settings = {
        "true": str(folders[0]),
        "predicted": str(folders[1]),
        "tissues": str(tmp_path / "tissues.csv"),
    }
    found = values(evaluate_settings(EvaluateSettings(**settings)).scores)
    assert found["bPQ", "skin"] == 1
    assert found["bPQ", "lung"] == pytest.approx(0.3)
    assert found["bPQ", ""] == pytest.approx((1 + 0.3) / 2)
    (tmp_path / "tissues.csv").write_text("a,skin\nb,skin\n")
    with pytest.raises(ValueError, match="1 images have no tissue: c"):
        evaluate_settings(EvaluateSettings(**settings))


def test_the_truth_may_be_a_published_data_set(tmp_path):
    images = [make_annotated(f"test_{number}", seed=number) for number in (1, 2)]
    write_consep(tmp_path, "Test", images)
    (tmp_path / "run").mkdir()
    for image in images:
        save(tmp_path / "run", image.name, image.label_map, type_map=image.type_map)
    settings = EvaluateSettings(
        true=str(tmp_path),
        adapter="consep",
        split="Test",
        predicted=str(tmp_path / "run"),
        mode="all",
        resamples=0,
    )
    report = evaluate_settings(settings)
    assert list(report.images) == ["test_1", "test_2"]
    assert report.type_names[1] == "miscellaneous"
    assert (report.overall["PQ"], report.overall["F_d"], report.overall["accuracy"]) == (1, 1, 1)


def test_tissues_that_only_some_images_say_are_left_out_with_a_warning(folders, caplog):
    def reader(label_map, tissue=""):
        return lambda: ImageNuclei("truth", label_map, tissue=tissue)

    for name, label_map in (("a", TRUE), ("b", PREDICTED)):
        save(folders[1], name, label_map)
    truth = {"a": reader(TRUE, "skin"), "b": reader(TRUE)}
    found = values(evaluate(truth, folders[1]).scores)
    assert found["bPQ", ""] == pytest.approx((1 + 0.3) / 2)
    assert ("bPQ", "skin") not in found
    assert "scores by tissue are left out, since 1 images do not say theirs: b; give tissues=" in caplog.text


def test_tissues_that_lack_an_image_are_refused_before_any_is_read(folders):
    def read():
        raise AssertionError("read before the tissues were checked")

    for folder, names in ((folders[1], "a"), (folders[2], "ab")):
        for name in names:
            save(folder, name, TRUE)
    with pytest.raises(ValueError, match="1 images have no tissue: b"):
        evaluate({"a": read, "b": read}, folders[1], against=folders[2], pooling=Pooling({"a": "skin"}))


@pytest.mark.parametrize("error", [ZeroDivisionError, IndexError, MemoryError])
def test_a_truth_that_a_library_cannot_read_fails_alone_and_by_name(folders, error):
    def read():
        raise error("torn")

    for name in ("a", "b"):
        save(folders[1], name, TRUE)
    report = evaluate({"a": read, "b": lambda: ImageNuclei("b", TRUE)}, folders[1])
    assert (list(report.images), report.failed) == (["b"], {"a": f"{error.__name__}: torn"})


OWN_DATA = {
    "folder": (publish_folder, "test"),
    "colour_masks": (publish_colour_masks, "All"),
    "geojson": (publish_geojson, "train"),
    "coco": (publish_coco, "train"),
}


@pytest.mark.parametrize("adapter", OWN_DATA)
def test_users_own_data_are_the_truth_with_the_settings_that_extraction_takes(tmp_path, adapter):
    publish, split = OWN_DATA[adapter]
    published = publish(tmp_path / "data")
    options = {"class_names": [], "colours": {}, **published.options}
    options["class_names"] = list(options["class_names"])
    (tmp_path / "run").mkdir()
    for image in published.images[split]:
        save(tmp_path / "run", image.name, image.label_map, type_map=image.type_map)
    settings = EvaluateSettings(
        true=str(tmp_path / "data"),
        adapter=adapter,
        split=split,
        predicted=str(tmp_path / "run"),
        mode="all",
        resamples=0,
        **options,
    )
    report = evaluate_settings(settings)
    assert (report.overall["PQ"], report.overall["F_d"], report.failed) == (1, 1, {})
    assert report.radius == pytest.approx(3 / options["mpp"])
    write_report(report, settings)
    with pytest.raises(ValueError, match=r"set mpp, such as mpp=0.25"):
        evaluate_settings(replace(settings, mpp=0.0))


def test_a_setting_of_data_sets_needs_an_adapter():
    with pytest.raises(ValueError, match=r"colours=.* is a setting of a data set; give its adapter"):
        EvaluateSettings(true="a", predicted="b", colours={"round": [1, 2, 3]})


def test_an_image_of_a_data_set_that_lacks_its_labels_fails_alone(tmp_path):
    images = [make_annotated(f"test_{number}", seed=number) for number in (1, 2)]
    write_consep(tmp_path, "Test", images)
    (tmp_path / "run").mkdir()
    for image in images:
        save(tmp_path / "run", image.name, image.label_map)
    (tmp_path / "Test" / "Labels" / "test_2.mat").unlink()
    settings = EvaluateSettings(true=str(tmp_path), adapter="consep", predicted=str(tmp_path / "run"))
    report = evaluate_settings(settings)
    assert (list(report.images), report.overall["PQ"]) == (["test_1"], 1)
    assert "no labels for image test_2.png" in report.failed["test_2"]


@pytest.mark.parametrize(("given", "used"), [({}, 12), ({"mpp": 0.5}, 6), ({"mpp": 0.5, "radius": 9.0}, 9)])
def test_centroids_are_paired_within_three_microns_unless_a_radius_is_given(folders, caplog, given, used):
    for folder in folders[:2]:
        save(folder, "a", TRUE, [1, 2, 1])
    settings = EvaluateSettings(true=str(folders[0]), predicted=str(folders[1]), mode="type", **given)
    with caplog.at_level("INFO"):
        evaluate_settings(settings)
    assert json.loads((folders[1] / "stats.json").read_text())["radius"] == used
    assert f"centroids up to {used} px apart are pairs" in caplog.text


@pytest.mark.parametrize(
    ("scheme", "num_warnings"), [(TypeScheme(), 1), (TypeScheme(merged=[0, 1, 2, 1, 1, 1, 1, 1]), 0)]
)
def test_a_truth_with_more_types_than_the_prediction_is_told_once(folders, caplog, scheme, num_warnings):
    for name in ("a", "b"):
        save(folders[0], name, TRUE, [1, 2, 7])
        save(folders[1], name, TRUE, [1, 2, 1])
    evaluate(*folders[:2], mode="type", types=scheme)
    lines = [line for line in caplog.messages if "types of the truth go up to 7, those of the" in line]
    assert len(lines) == num_warnings and all("merge_types=" in line for line in lines)


def test_points_have_types_and_no_shapes(folders):
    """Centroids of the truth are (0.5, 0.5), (2, 3) and (3, 0), as (y, x); a point's pixel begins half before it."""
    save(folders[0], "a", TRUE, [1, 2, 1])
    (folders[1] / "a.tsv").write_text("x\ty\tclass\n1\t1\tround\n3.5\t2.5\tlong\n0.5\t3.5\tlong\n")
    for mode in ("type", "all"):
        report = evaluate(*folders[:2], mode=mode, types=SCHEME)
        assert (report.overall["F_d"], report.overall["accuracy"]) == (1, 2 / 3)
        assert {row.section for row in report.scores} == {"detection", "agreement"}
    with pytest.raises(ValueError, match="a.tsv holds points without shapes; evaluate it with mode=type"):
        evaluate(*folders[:2], types=SCHEME)


def test_two_runs_are_compared_on_the_images_of_both(folders):
    for name in ("a", "b", "c"):
        save(folders[0], name, TRUE, [1, 2, 1])
        save(folders[1], name, TRUE, [1, 2, 1])
    for name in ("a", "b"):
        save(folders[2], name, PREDICTED, [1, 2])
    report = evaluate(*folders[:2], mode="all", types=SCHEME, against=folders[2], pooling=FEW)
    comparison = report.comparison
    assert (comparison.images, comparison.left_out) == (["a", "b"], ["c"])
    differences = {(row.score, row.group): row for row in comparison.differences}
    assert differences["PQ", ""][3:] == pytest.approx((1 - 0.3,) * 3)  # the same for every image: no doubt
    assert differences["F_d", ""].value == pytest.approx(1 - 4 / 5)
    assert differences["count_bias", ""].value == 1
    assert (folders[1] / "differences.csv").is_file()
    assert f"less {folders[2]}, on 2 images of both" in report.scores_table
    assert json.loads((folders[1] / "stats.json").read_text())["comparison"]["left_out"] == ["c"]


def test_a_run_less_itself_is_zero(folders):
    for name, label_map in (("a", PREDICTED), ("b", TRUE)):
        save(folders[0], name, TRUE, [1, 2, 1])
        save(folders[1], name, label_map, np.ones(label_map.max()))
    comparison = evaluate(*folders[:2], mode="all", against=folders[1], pooling=FEW).comparison
    for row in comparison.differences:
        assert math.isnan(row.value) or (row.value, row.low, row.high) == (0, 0, 0)


def test_runs_without_a_common_image_are_not_compared(folders):
    save(folders[0], "a", TRUE)
    save(folders[0], "b", TRUE)
    save(folders[1], "a", TRUE)
    save(folders[2], "b", TRUE)
    with pytest.raises(ValueError, match="has no image of the predictions"):
        evaluate(*folders[:2], against=folders[2])


BAD = {
    "sizes that differ": (
        {"label_map": TRUE[:3]},
        r"bad.mat: true label map \(4, 4\) .* differ in shape; .*crop",
    ),
    "an id that the table lacks": (
        {"label_map": TRUE, "types": [1], "inst_uid": [2]},
        r"bad.mat: 2 of 3 ids .* such as 1; add",
    ),
    "a negative id": (
        {"label_map": -TRUE, "types": [1, 2, 1]},
        r"bad.mat: the label map holds id -3; .* set it to 0",
    ),
    "a float label map": (
        {"label_map": TRUE / 2, "types": [1, 2, 1]},
        r"bad.mat: inst_map is float64 .*; store ids",
    ),
    "a type beyond the list": (
        {"label_map": TRUE, "types": [1, 2, 9]},
        r"bad.mat: type 9 has no name .*; name every",
    ),
    "fewer types than nuclei": (
        {"label_map": TRUE, "types": [1, 2]},
        r"bad.mat lists 2 types for 3 nuclei; store",
    ),
    "no types": ({"label_map": TRUE}, r"bad.mat holds no types, as other images do; evaluate"),
}


@pytest.mark.parametrize("side", [0, 1], ids=["true", "predicted"])
@pytest.mark.parametrize(("arrays", "complaint"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_of_file_value_and_remedy_and_the_rest_goes_on(
    folders, arrays, complaint, side
):
    for folder in folders[:2]:
        save(folder, "good", TRUE, [1, 2, 1])
    save(folders[1 - side], "bad", TRUE, [1, 2, 1])
    save(folders[side], "bad", **arrays)
    report = evaluate(*folders[:2], mode="all", types=SCHEME, pooling=FEW)
    assert list(report.images) == ["good"]
    assert report.overall["PQ"] == 1
    assert report.exit_status == 1
    reason = report.failed["bad"]
    if complaint.startswith("bad.mat: true label map") and side == 0:
        complaint = complaint.replace("(4, 4\\)", "(3, 4\\)")
    assert re.search(complaint, reason), reason
    assert "\n" not in reason


def test_images_of_which_one_side_is_empty_score_zero_and_are_named(folders, caplog):
    save(folders[0], "a", TRUE, [1, 2, 1])
    save(folders[1], "a", EMPTY, [])
    report = evaluate(*folders[:2], mode="all", types=SCHEME)
    assert report.exit_status == 0
    assert report.left_out == []
    assert {report.overall[name] for name in ("DICE1", "AJI", "AJI+", "PQ", "F_d")} == {0}
    assert "a: its prediction holds no nuclei, the other side 3: its scores are 0" in caplog.text


@pytest.mark.parametrize("name", ["json", "geojson", "parquet", "store", "mat"])
def test_an_output_without_nuclei_is_no_output_without_types(folders, name):
    for stem, label_map in (("full", ellipses()), ("empty", np.zeros_like(ellipses()))):
        result = make_result(label_map, name=stem)
        save(folders[0], stem, ellipses(), 2 - np.arange(1, 13) % 2)
        write_output(result, folders[1], name)
    report = evaluate(*folders[:2], mode="all")
    assert report.exit_status == 0
    assert (report.images["full"]["F_d"], report.images["empty"]["F_d"]) == (1, 0)


def test_an_image_without_nuclei_does_not_ask_the_others_for_types(folders):
    for folder in folders[:2]:
        save(folder, "a", TRUE)
        save(folder, "b", EMPTY)
    report = evaluate(*folders[:2], mode="all", pooling=FEW)
    assert (report.exit_status, report.overall["PQ"], report.confusion) == (0, 1, [])


def test_an_image_that_is_empty_on_both_sides_is_undefined_not_one(folders):
    for folder in folders[:2]:
        save(folder, "a", EMPTY, [])
        save(folder, "b", TRUE, [1, 2, 1])
    report = evaluate(*folders[:2], mode="all", types=SCHEME, pooling=FEW)
    assert report.left_out == ["a"]
    assert math.isnan(report.images["a"]["PQ"])
    assert values(report.scores)["PQ", ""] == 1


def test_files_without_a_partner_are_listed_with_a_remedy(folders):
    for folder in folders[:2]:
        save(folder, "both", TRUE)
    save(folders[0], "only_true", TRUE)
    save(folders[1], "only_predicted", TRUE)
    report = evaluate(*folders[:2])
    assert "1 without a prediction: only_true; predict them" in report.table
    assert "1 without a truth: only_predicted; leave them out" in report.table
    assert report.exit_status == 1
