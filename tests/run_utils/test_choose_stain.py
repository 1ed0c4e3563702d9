"""Which normalisation a run gets: the training's, another with a warning, or that of a file."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from dataloader.stain import NORMALIZERS, PUBLISHED_TARGET, StainStatistics, make_normalizer
from run_utils.stain import build_normalizer, choose_normalizer, describe_stain, read_target
from tests.logs import own_records
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
    assert not own_records(caplog)


@pytest.mark.parametrize("setting", ["auto", "macenko"])
def test_a_network_gets_the_target_it_was_trained_with(setting: str, caplog) -> None:
    normalizer = choose_normalizer(setting, TRAINED)
    assert normalizer is not None
    assert (normalizer.method, normalizer.target) == ("macenko", OTHER)
    assert not own_records(caplog)


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
    (record,) = own_records(caplog)
    assert record.levelname == "WARNING" and words in record.getMessage()
    assert "stain=auto does as the training did" in record.getMessage()


def test_a_checkpoint_that_does_not_say_is_no_mismatch(caplog) -> None:
    with caplog.at_level("INFO"):
        normalizer = choose_normalizer("macenko", {})
    assert normalizer is not None and normalizer.target == PUBLISHED_TARGET
    (record,) = own_records(caplog)
    assert record.levelname == "INFO" and "does not say" in record.getMessage()


@pytest.mark.parametrize("method", NORMALIZERS)
def test_a_file_of_statistics_brings_its_method_and_target(method: str, tmp_path: Path) -> None:
    statistics = make_normalizer(method).estimate(stain_image(200, 200))
    statistics.save(tmp_path / "target.json")
    normalizer = choose_normalizer(str(tmp_path / "target.json"), {})
    assert normalizer is not None
    assert (normalizer.method, normalizer.target) == (method, statistics)


LAB = StainStatistics("reinhard", lab_mean=(60.0, 20.0, -20.0), lab_std=(10.0, 5.0, 7.0))


@pytest.mark.parametrize(
    ("trained", "target", "method"),
    [
        ("vahadane", OTHER, "vahadane"),  # both know stain matrices
        ("macenko", OTHER, "macenko"),
        ("reinhard", OTHER, "macenko"),
        ("vahadane", LAB, "reinhard"),
        ("reinhard", LAB, "reinhard"),
    ],
)
def test_statistics_are_normalised_to_as_the_training_did_where_its_method_takes_them(
    trained: str, target: StainStatistics, method: str, tmp_path: Path
) -> None:
    target.save(tmp_path / "target.json")
    notes = {"stain": describe_stain(make_normalizer(trained))}
    normalizer = choose_normalizer(str(tmp_path / "target.json"), notes)
    assert normalizer is not None
    assert (normalizer.method, normalizer.target) == (method, target)


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


def test_statistics_without_stain_are_no_target_for_anyone(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    StainStatistics("identity").save(path)
    for use in (
        lambda: build_normalizer("macenko", str(path)),
        lambda: choose_normalizer(str(path), TRAINED),
    ):
        with pytest.raises(ValueError, match=r"identity\.json holds no stain.*another target"):
            use()


BROKEN = [
    {"method": "macenko"},
    {"method": "mackenzie", "target": OTHER.to_dict()},
    {"method": "macenko", "target": {"method": "macenko"}},
    {"method": "macenko", "target": LAB.to_dict()},
    {"target": OTHER.to_dict()},
    "macenko",
]


@pytest.mark.parametrize("stain", BROKEN)
def test_what_a_checkpoint_says_of_its_stain_and_cannot_be_is_refused_or_passed_over(stain, caplog) -> None:
    with pytest.raises(
        ValueError, match="stain=auto: the checkpoint says of its training's stain.*; give stain="
    ):
        choose_normalizer("auto", {"stain": stain})
    assert choose_normalizer("none", {"stain": stain}) is None
    normalizer = choose_normalizer("macenko", {"stain": stain})
    assert normalizer is not None and normalizer.target == PUBLISHED_TARGET
    assert "the checkpoint says of its training's stain" in caplog.text


def test_a_word_too_long_for_a_file_is_none() -> None:
    word = "macenko," * 40
    with pytest.raises(FileNotFoundError, match="is no file, nor one of: auto"):
        choose_normalizer(word, {})
    with pytest.raises(FileNotFoundError, match="is no file; give"):
        read_target(word, "macenko")


def test_a_target_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.json is no file; give"):
        read_target("absent.json", "macenko")
