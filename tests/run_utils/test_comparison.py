"""Runs side by side: the order, the paired intervals, what is told apart, and the table's files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from config.comparison import CompareSettings
from metrics.bootstrap import draw_weights
from run_utils.comparison import compare_runs

RESAMPLES, SEED = 400, 3


def write_run(
    folder: Path, images: Mapping[str, float | None], *, is_done: bool = True, **settings: object
) -> None:
    """Write what a run of these settings leaves, with these PQ of images; None is an image without nuclei."""
    folder.mkdir(parents=True)
    defined = [value for value in images.values() if value is not None]
    train = {"phases": [{"learning_rate": settings.pop("learning_rate", 1e-3), "epochs": 5}]}
    (folder / "settings.yaml").write_text(json.dumps({**settings, "output": str(folder), "train": train}))
    record = {
        "is_done": is_done,
        "step": 40,
        "seconds": 3671.0,
        "patches": 1000,
        "epochs": 2.5,
        "device": "cpu",
    }
    (folder / "record.json").write_text(json.dumps(record))
    scores = {
        "step": 20,
        "overall": {"PQ": float(np.mean(defined)), "DICE1": 0.75, "AJI": None},
        "images": {name: {"PQ": value} for name, value in images.items()},
    }
    (folder / "best.json").write_text(json.dumps(scores))


def table_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "runs.csv").open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three runs on 30 hard and easy images: one clearly worse on every one, one as good as the best."""
    rng = np.random.default_rng(0)
    hardness = rng.uniform(0.2, 0.8, 30)
    for name, seed, rate, change in (("a", 1, 1e-3, 0.0), ("b", 2, 1e-3, -0.001), ("c", 1, 1e-5, -0.05)):
        noise = rng.normal(0, 0.01, 30)
        images = dict(zip(map(str, range(30)), (hardness + change + noise).tolist(), strict=True))
        write_run(tmp_path / name, images, seed=seed, learning_rate=rate, is_done=name != "c")
    return tmp_path


def test_pairs_of_images_tell_apart_what_intervals_of_the_runs_do_not(sweep: Path) -> None:
    text = compare_runs(CompareSettings(str(sweep), resamples=RESAMPLES, seed=SEED))
    rows = table_of(sweep)
    best, *others = rows
    assert {best, others[0]} == {"a", "b"} and others[1] == "c"
    assert float(rows["c"]["PQ_high"]) > float(rows[best]["PQ_low"])
    assert float(rows["c"]["less_best_high"]) < 0 < float(rows[others[0]]["less_best_high"])
    assert (rows[others[0]]["like_best"], rows["c"]["like_best"]) == ("True", "False")
    marked = [line.split()[1] for line in text.splitlines() if line.startswith("≈")]
    assert marked == [others[0]]


def test_intervals_are_those_of_images_drawn_one_by_one(sweep: Path) -> None:
    compare_runs(CompareSettings(str(sweep), resamples=RESAMPLES, seed=SEED))
    rows = table_of(sweep)
    best = next(iter(rows))
    values = {}
    for name in rows:
        images = json.loads((sweep / name / "best.json").read_text())["images"]
        values[name] = [row["PQ"] for row in images.values()]
    draws = draw_weights(30, RESAMPLES, SEED).astype(int)
    for name in rows:
        means, differences = [], []
        for draw in draws:
            drawn = [index for index, count in enumerate(draw) for _ in range(count)]
            means.append(sum(values[name][index] for index in drawn) / 30)
            differences.append(sum(values[name][index] - values[best][index] for index in drawn) / 30)
        expected = np.quantile(means, [0.025, 0.975])
        assert [float(rows[name][end]) for end in ("PQ_low", "PQ_high")] == pytest.approx(expected)
        if name != best:
            expected = np.quantile(differences, [0.025, 0.975])
            found = [float(rows[name][end]) for end in ("less_best_low", "less_best_high")]
            assert found == pytest.approx(expected)


def test_the_table_shows_settings_that_differ_and_what_runs_cost(sweep: Path) -> None:
    text = compare_runs(CompareSettings(str(sweep)))
    header = text.splitlines()[0].split()
    assert {"seed", "learning_rate", "PQ", "Dice", "passes", "patches", "time", "status"} <= set(header)
    assert not {"output", "AJI", "F_d"} & set(header)
    assert "1:01:11" in text and "1,000" in text and "stopped" in text
    assert {"seed", "train.phases.0.learning_rate"} <= table_of(sweep)["a"].keys()
    page = (sweep / "runs.md").read_text()
    assert page.startswith("# Runs\n\n2 of 3 are done.") and "|" in page


def test_seeds_of_one_setting_are_summed_up(sweep: Path) -> None:
    text = compare_runs(CompareSettings(str(sweep)))
    scores = [float(table_of(sweep)[name]["PQ"]) for name in "ab"]
    (line,) = [line.split() for line in text.splitlines() if line.startswith("0.001")]
    assert line[1:] == ["2", f"{np.mean(scores):.4f}", f"{np.std(scores, ddof=1):.4f}"]


def test_runs_of_one_seed_count_once_and_what_changes_no_weights_parts_no_group(tmp_path: Path) -> None:
    for name, seed, device, pq in (("a", 1, "cpu", 0.6), ("b", 1, "cuda", 0.6), ("c", 2, "cuda", 0.4)):
        write_run(tmp_path / name, {"1": pq}, seed=seed, device=device, profile=name == "a")
    _, _, below = compare_runs(CompareSettings(str(tmp_path))).partition("standard deviation\n")
    assert below.splitlines()[1].split() == ["2", "0.5000", f"{math.sqrt(0.02):.4f}"]
    assert below.splitlines()[2] == ""


def test_a_setting_called_as_a_column_keeps_its_full_name(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, {"1": 0.5}, seed=1, data={"patches": f"stores/{name}"})
    header, _, *lines = compare_runs(CompareSettings(str(tmp_path))).splitlines()
    assert header.split()[:3] == ["run", "data.patches", "PQ"] and header.split().count("patches") == 1
    assert "stores/a" in lines[0] and "1,000" in lines[0]


def test_runs_on_other_images_are_compared_by_their_intervals(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"1": 0.9, "2": 0.7, "3": 0.8}, seed=1)
    write_run(tmp_path / "near", {"1": 0.7, "2": 0.75, "4": 0.9}, seed=2)
    write_run(tmp_path / "far", {"1": 0.1, "2": 0.2, "4": None}, seed=3)
    compare_runs(CompareSettings(str(tmp_path)))
    rows = table_of(tmp_path)
    assert [rows[name]["like_best"] for name in ("near", "far")] == ["True", "False"]
    assert rows["near"]["less_best_low"] == ""
    assert float(rows["far"]["PQ"]) == pytest.approx(0.15)


def test_runs_that_failed_or_have_no_scores_come_last(tmp_path: Path) -> None:
    write_run(tmp_path / "one", {"1": 0.5}, seed=1)
    write_run(tmp_path / "none", {"1": None, "2": None} | {"3": 0.0}, seed=2)
    (tmp_path / "none" / "best.json").unlink()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "failed.txt").write_text("seed=x is no number\n")
    text = compare_runs(CompareSettings(str(tmp_path)))
    rows = table_of(tmp_path)
    assert next(iter(rows)) == "one" and rows["one"]["PQ_low"] == ""
    assert (rows["broken"]["status"], rows["broken"]["reason"]) == ("failed", "seed=x is no number")
    assert "failed: seed=x is no number" in text
    assert math.isclose(float(rows["one"]["PQ"]), 0.5) and rows["none"]["PQ"] == ""


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("input: a.png\n")  # of another command
    for folder, message in ((tmp_path, "holds no run"), (tmp_path / "not there", "is not a folder")):
        with pytest.raises(FileNotFoundError, match=message):
            compare_runs(CompareSettings(str(folder)))
