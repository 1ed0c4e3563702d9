"""Which normalisation a run gets: the training's, another with a warning, or that of a file."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from dataloader.stain import NORMALIZERS, PUBLISHED_TARGET, StainStatistics, make_normalizer
from run_utils.stain import build_normalizer, choose_normalizer, describe_stain, read_target
from tests.stained import stain_image

OTHER = StainStatistics("macenko", ((0.6, 0.2), (0.7, 0.8), (0.4, 0.5)), (1.5, 1.0))
TRAINED = {"stain": describe_stain(make_normalizer("macenko", OTHER))}
PLAIN = {"stain": describe_stain(None)}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "target.png"
    cv2.imwrite(str(path), stain_image(200, 200)[..., ::-1])
    return path


@pytest.mark.parametrize("notes", [{}, PLAIN])
@pytest.mark.parametrize("setting", ["auto", "none"])
def test_networks_trained_without_normalisation_see_slides_as_they_are(
    setting: str, notes: dict, caplog
) -> None:
    assert choose_normalizer(setting, notes) is None
    assert not caplog.records


@pytest.mark.parametrize("setting", ["auto", "macenko"])
def test_a_network_gets_the_target_it_was_trained_with(setting: str, caplog) -> None:
    normalizer = choose_normalizer(setting, TRAINED)
    assert normalizer is not None
    assert (normalizer.method, normalizer.target) == ("macenko", OTHER)
    assert not caplog.records


@pytest.mark.parametrize(
    ("setting", "notes", "words"),
    [
        ("none", TRAINED, "stain=none normalises with none, but the checkpoint was trained with macenko"),
        ("reinhard", TRAINED, "trained with macenko to"),
        ("vahadane", PLAIN, "but the checkpoint was trained with none"),
    ],
)
def test_another_normalisation_than_the_training_s_is_pointed_out(
    setting: str, notes: dict, words: str, caplog
) -> None:
    normalizer = choose_normalizer(setting, notes)
    assert (normalizer and normalizer.method) == (None if setting == "none" else setting)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and words in record.getMessage()
    assert "stain=auto does as the training did" in record.getMessage()


def test_a_checkpoint_that_does_not_say_is_no_mismatch(caplog) -> None:
    with caplog.at_level("INFO"):
        normalizer = choose_normalizer("macenko", {})
    assert normalizer is not None and normalizer.target == PUBLISHED_TARGET
    assert "does not say" in caplog.text and "WARNING" not in caplog.text


@pytest.mark.parametrize("method", NORMALIZERS)
def test_a_file_of_statistics_brings_its_method_and_target(method: str, tmp_path: Path) -> None:
    statistics = make_normalizer(method).estimate(stain_image(200, 200))
    statistics.save(tmp_path / "target.json")
    normalizer = choose_normalizer(str(tmp_path / "target.json"), {})
    assert normalizer is not None
    assert (normalizer.method, normalizer.target) == (method, statistics)


def test_a_picture_as_target_is_fitted_by_the_method_of_the_training(picture: Path) -> None:
    for notes, method in (
        ({}, "macenko"),
        ({"stain": describe_stain(make_normalizer("reinhard"))}, "reinhard"),
    ):
        normalizer = choose_normalizer(str(picture), notes)
        assert normalizer is not None
        assert normalizer.target == make_normalizer(method).estimate(stain_image(200, 200))


def test_a_training_target_is_read_from_a_picture(picture: Path) -> None:
    target = build_normalizer("vahadane", str(picture)).target
    assert target == make_normalizer("vahadane").estimate(stain_image(200, 200))


def test_a_picture_without_stain_is_no_target(tmp_path: Path) -> None:
    path = tmp_path / "white.png"
    cv2.imwrite(str(path), stain_image(64, 64, glass=1.0))
    with pytest.raises(ValueError, match="too little stain to be a target"):
        read_target(str(path), "macenko")


def test_a_word_that_is_neither_method_nor_file_lists_the_methods() -> None:
    with pytest.raises(
        FileNotFoundError, match="stain=mackenzie is no file.*auto, none, macenko, vahadane, reinhard"
    ):
        choose_normalizer("mackenzie", {})


def test_statistics_of_another_kind_are_refused(tmp_path: Path) -> None:
    OTHER.save(tmp_path / "macenko.json")
    with pytest.raises(ValueError, match="'macenko'"):
        build_normalizer("reinhard", str(tmp_path / "macenko.json"))
