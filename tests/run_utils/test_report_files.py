"""The report of an evaluation: what compute_stats writes of real files, its pictures, and what it leaves out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from config.schema import EvaluateSettings
from run_utils.evaluation import evaluate_settings
from run_utils.evaluation_report import EvaluationReport
from run_utils.report.build import Pair, make_report
from run_utils.report.files import write_report
from tests.drawing import draw_pairs, paint_tissue

NAMES = [f"image_{number}" for number in range(1, 5)]


@pytest.fixture
def settings(tmp_path: Path) -> EvaluateSettings:
    """Four images; the prediction of each is worse than that of the one before, the last is empty on both sides."""
    for folder in ("true", "predicted", "images"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate(NAMES):
        label_map = draw_pairs((120, 160), seed=number) if number < 3 else np.zeros((120, 160), np.int32)
        types = 1 + label_map % 2
        predicted = np.where(label_map % 4 < 4 - number, label_map, 0)
        for folder, labels in (("true", label_map), ("predicted", predicted)):
            stacked = np.stack([labels, np.where(labels > 0, types, 0)], -1).astype(np.int32)
            np.save(tmp_path / folder / f"{name}.npy", stacked)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), paint_tissue(label_map)[..., ::-1])
    return EvaluateSettings(
        true=str(tmp_path / "true"),
        predicted=str(tmp_path / "predicted"),
        images=str(tmp_path / "images"),
        output=str(tmp_path / "out"),
        mode="all",
        type_names=["background", "round", "long"],
        resamples=20,
    )


def shown(page: str, heading: str) -> list[str]:
    """Return the names of the examples under a heading."""
    section = page.split(f"<h2>{heading}</h2>")[1].split("</section>")[0]
    return re.findall(r'alt="(\w+), truth"', section)


def test_compute_stats_leaves_a_page_and_latex_beside_its_tables(settings: EvaluateSettings) -> None:
    evaluation = evaluate_settings(settings)
    path = write_report(evaluation, settings)
    page = path.read_text(encoding="utf-8")
    assert {file.name for file in path.parent.iterdir()} >= {
        "report.html",
        "report.tex",
        "stats.csv",
        "stats.json",
    }
    quality = evaluation.overall["PQ"]
    assert f"{quality:.3f}" in page and f"{quality:.3f}" in (path.parent / "report.tex").read_text()
    for words in (
        "Segmentation",
        "Detection and types",
        "Panoptic quality, by group",
        "Agreement of counts",
        "long",
    ):
        assert words in page
    assert "without nuclei on both sides, left out of the means: image_4" in page


@pytest.mark.parametrize(("resamples", "sentence"), [(20, "95 % of 20 bootstrap resamples"), (0, None)])
def test_the_page_says_how_many_resamples_its_intervals_are_of(
    settings: EvaluateSettings, resamples: int, sentence: str | None
) -> None:
    chosen = replace(settings, resamples=resamples, examples=0)
    page = write_report(evaluate_settings(chosen), chosen).read_text(encoding="utf-8")
    assert sentence in page if sentence else "resamples" not in page


def test_best_and_worst_images_are_shown_once_each(settings: EvaluateSettings) -> None:
    page = write_report(evaluate_settings(settings), settings).read_text(encoding="utf-8")
    assert shown(page, "Best images") == ["image_1", "image_2"]
    assert shown(page, "Worst images") == ["image_3"]
    fewer = replace(settings, examples=1)
    page = write_report(evaluate_settings(fewer), fewer).read_text(encoding="utf-8")
    assert (shown(page, "Best images"), shown(page, "Worst images")) == (["image_1"], ["image_3"])
    none = replace(settings, examples=0)
    assert "<img" not in write_report(evaluate_settings(none), none).read_text(encoding="utf-8")


def test_examples_are_drawn_on_the_image_where_it_is_known(settings: EvaluateSettings) -> None:
    evaluation = evaluate_settings(settings)
    label_map = draw_pairs((120, 160), seed=0)
    image = paint_tissue(label_map)

    def example(pair: Pair):
        return make_report(evaluation, title="", facts={}, num_resamples=0, read_pair=lambda name: pair).best[
            0
        ]

    with_image = example(Pair(label_map, 0 * label_map, image))
    assert np.array_equal(with_image.predicted, image)
    changed = (with_image.true != image).any(-1)
    assert changed.any() and not changed[label_map == 0].all()
    without = example(Pair(label_map, 0 * label_map))
    assert np.ptp(without.predicted) == 0 and np.ptp(without.true) > 0


def test_a_pair_that_cannot_be_read_again_is_left_out_of_the_pictures(
    settings: EvaluateSettings, caplog
) -> None:
    evaluation = evaluate_settings(settings)
    (Path(settings.predicted) / "image_1.npy").write_bytes(b"broken")
    page = write_report(evaluation, settings).read_text(encoding="utf-8")
    assert shown(page, "Best images") == ["image_2"]
    assert "image_1 is not drawn" in caplog.text


def test_a_folder_of_images_that_is_not_there_is_named(settings: EvaluateSettings) -> None:
    evaluation = evaluate_settings(settings)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        write_report(evaluation, replace(settings, images="nowhere"))


def test_two_runs_are_told_apart_in_the_page(settings: EvaluateSettings) -> None:
    both = replace(settings, against=settings.true)
    page = write_report(evaluate_settings(both), both).read_text(encoding="utf-8")
    assert f"Difference from {settings.true}" in page


def test_what_failed_or_lacks_its_partner_is_a_remark(settings: EvaluateSettings) -> None:
    (Path(settings.predicted) / "image_2.npy").write_bytes(b"broken")
    (Path(settings.true) / "image_3.npy").unlink()
    evaluation = evaluate_settings(settings)
    assert evaluation.exit_status == 1
    page = write_report(evaluation, settings).read_text(encoding="utf-8")
    assert "image_2 could not be measured" in page
    assert "1 without a truth: image_3" in page


def test_an_evaluation_without_shapes_has_no_examples() -> None:
    evaluation = EvaluationReport("type", {"a": {"F_d": 0.5}}, {"F_d": 0.5}, [], [], [], {})
    report = make_report(evaluation, title="", facts={}, num_resamples=0, read_pair=lambda name: None)
    assert report.best == report.worst == []
    assert report.images.values.tolist() == [[0.5]]
