import csv
import json
import math

from metrics.report import format_table, mean_scores, undefined_images, write_csv, write_json

ROWS = {
    "a": {"PQ": 0.25, "AJI": 0.5},
    "b": {"PQ": 0.75, "AJI": 1.0},
    "empty, both": {"PQ": math.nan, "AJI": math.nan},
}


def test_the_mean_leaves_undefined_scores_out():
    assert mean_scores(ROWS) == {"PQ": (0.25 + 0.75) / 2, "AJI": (0.5 + 1.0) / 2}
    assert undefined_images(ROWS) == ["empty, both"]


def test_the_mean_of_undefined_scores_is_undefined():
    assert math.isnan(mean_scores({"a": {"PQ": math.nan}})["PQ"])
    assert mean_scores({}) == {}


def test_the_table_has_a_line_per_image_and_one_for_the_summary():
    lines = format_table(ROWS, {"mean": mean_scores(ROWS)}).splitlines()
    assert lines[0].split() == ["image", "PQ", "AJI"]
    assert lines[2].split() == ["a", "0.2500", "0.5000"]
    assert lines[4].split() == ["empty,", "both", "-", "-"]
    assert lines[-1].split() == ["mean", "0.5000", "0.7500"]
    assert format_table({}, {}) == ""


def test_an_image_called_mean_keeps_its_line():
    lines = format_table({"mean": {"PQ": 0.1}}, {"mean": {"PQ": 0.2}}).splitlines()
    assert [line.split() for line in lines[2:]] == [["mean", "0.1000"], ["mean", "0.2000"]]


def test_csv_is_read_back_at_full_precision(tmp_path):
    rows = {**ROWS, "third": {"PQ": 1 / 3, "AJI": 0.0}}
    write_csv(tmp_path / "stats.csv", rows, {"mean": mean_scores(rows)})
    with (tmp_path / "stats.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["image"] for row in read] == ["a", "b", "empty, both", "third", "mean"]
    assert float(read[3]["PQ"]) == 1 / 3
    assert read[2]["PQ"] == ""


def test_json_holds_null_for_undefined_scores(tmp_path):
    write_json(tmp_path / "stats.json", {"images": ROWS, "missing": ["x"]})
    read = json.loads((tmp_path / "stats.json").read_text(), parse_constant=lambda name: 1 / 0)
    assert read == {"images": {**ROWS, "empty, both": {"PQ": None, "AJI": None}}, "missing": ["x"]}


def test_writing_leaves_no_temporary_file_and_replaces_the_old(tmp_path):
    for value in (1, 2):
        write_json(tmp_path / "stats.json", {"value": value})
    assert [path.name for path in tmp_path.iterdir()] == ["stats.json"]
    assert json.loads((tmp_path / "stats.json").read_text()) == {"value": 2}
