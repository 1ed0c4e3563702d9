"""From a setting to a stain normaliser, its target read from a file; training, inference and the command share it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataloader.slides import open_slide
from dataloader.stain import NORMALIZERS, Normalizer, StainStatistics, make_normalizer
from dataloader.tissue_pixels import sample_slide
from run_utils.files import is_file

logger = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"
MAX_SHOWN = 80  # characters of what a checkpoint says
METHOD_OF_A_PICTURE = "macenko"  # where a picture is the target and the checkpoint names no method


def build_normalizer(method: str, target: str = "") -> Normalizer:
    """Return the normaliser of a name.

    Args:
        method: a row of ``dataloader.stain.NORMALIZERS``.
        target: JSON file of statistics, an image or a slide; empty for the method's default.

    Raises:
        FileNotFoundError: there is no such file.
        SlideError: the file is neither JSON nor an image.
        ValueError: the target holds too little stain, or does not suit the method.
    """
    return make_normalizer(method, read_target(target, method) if target else None)


def read_target(path: str, method: str) -> StainStatistics:
    """Return the stain of a file: of a JSON as it stands there, of an image or slide as ``method`` fits it.

    Raises:
        FileNotFoundError, SlideError, ValueError: see ``build_normalizer``.
    """
    if not is_file(path):
        raise FileNotFoundError(f"{path} is no file; give statistics (.json), an image or a slide as target")
    if _is_json(path):
        statistics = StainStatistics.load(path)
        if statistics.is_identity:
            raise ValueError(
                f"{path} holds no stain: too little was found when it was fitted; choose another target"
            )
        return statistics
    with open_slide(path) as slide:
        statistics = make_normalizer(method).estimate(sample_slide(slide))
    if statistics.is_identity:
        raise ValueError(f"{path} shows too little stain to be a target; choose one with more tissue")
    return statistics


def choose_normalizer(setting: str, notes: Mapping[str, Any]) -> Normalizer | None:
    """Return how slides are normalised for a network; warn where that is not how its patches were in training.

    Args:
        setting: `auto`, `none`, the name of a method, or the file of a target.
        notes: of the network's checkpoint: `stain`, where it says it, as ``describe_stain`` gave it.

    Returns:
        The normaliser, with the target of the training where no other is asked for; None leaves slides as they are.

    Raises:
        FileNotFoundError, ValueError: the setting is neither a known name nor a file that can be a target, or
            `auto` where the checkpoint says what cannot be.
    """
    trained = _read_facts(setting, notes)
    normalizer = _choose(setting, trained or {"method": NONE})
    chosen = describe_stain(normalizer)
    if trained is not None and chosen != trained:
        logger.warning(
            "stain=%s normalises with %s, but the checkpoint was trained with %s: expect worse results; "
            "stain=auto does as the training did",
            setting,
            _shorten(chosen),
            _shorten(trained),
        )
    elif trained is None and normalizer is not None:
        logger.info("the checkpoint does not say whether its training patches were stain-normalised")
    return normalizer


def describe_stain(normalizer: Normalizer | None) -> dict[str, Any]:
    """Return as plain data what a checkpoint and a run's record say: the method, and the target."""
    if normalizer is None:
        return {"method": NONE}
    return {"method": normalizer.method, "target": normalizer.target.to_dict()}


def _read_facts(setting: str, notes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a checkpoint says of its stain; None where that is nothing, or is not needed and cannot be."""
    stain = notes.get("stain")
    if stain is None:
        return None
    try:
        _rebuild(stain)
    except (KeyError, TypeError, ValueError) as error:
        problem = (
            f"the checkpoint says of its training's stain {str(stain)[:MAX_SHOWN]}, which is none known here"
        )
        if setting == AUTO:
            raise ValueError(f"stain=auto: {problem}; give stain=none, a method or a target") from error
        logger.warning("%s, and is passed over", problem)
        return None
    return stain


def _rebuild(stain: Mapping[str, Any]) -> Normalizer | None:
    """Return what ``describe_stain`` described."""
    if stain["method"] == NONE:
        return None
    return make_normalizer(stain["method"], StainStatistics.from_dict(stain["target"]))


def _choose(setting: str, trained: Mapping[str, Any]) -> Normalizer | None:
    if setting in (AUTO, trained["method"]):
        return _rebuild(trained)
    if setting == NONE:
        return None
    if setting in NORMALIZERS:
        return make_normalizer(setting)
    if not is_file(setting):
        raise FileNotFoundError(
            f"stain={setting} is no file, nor one of: {', '.join((AUTO, NONE, *NORMALIZERS))}"
        )
    method = METHOD_OF_A_PICTURE if trained["method"] == NONE else trained["method"]
    target = read_target(setting, method)
    if _is_json(setting) and (trained["method"] == NONE or not _takes(method, target)):
        method = target.method
    return make_normalizer(method, target)


def _takes(method: str, target: StainStatistics) -> bool:
    """Return whether a method works with statistics of this kind: stain vectors, or L*a*b*."""
    return (make_normalizer(method).target.stain_matrix is None) == (target.stain_matrix is None)


def _is_json(path: str) -> bool:
    return Path(path).suffix.lower() == ".json"


def _shorten(description: Mapping[str, Any]) -> str:
    """Return a description for a line of the log: the target's numbers would fill it."""
    target = description.get("target")
    if target is None:
        return str(description["method"])
    numbers = target.get("stain_matrix") or target.get("lab_mean")
    return f"{description['method']} to {numbers}"
