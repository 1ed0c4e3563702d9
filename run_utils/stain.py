"""From a setting to a stain normaliser, its target read from a file; training, inference and the command share it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataloader.slides import open_slide
from dataloader.stain import NORMALIZERS, Normalizer, StainStatistics, make_normalizer
from dataloader.tissue_pixels import sample_slide

logger = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"
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
    """Return the stain of a file: of a JSON as it stands there, of an image or slide as ``method`` fits it."""
    if _is_json(path):
        return StainStatistics.load(path)
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
        FileNotFoundError, ValueError: the setting is neither a known name nor a file that can be a target.
    """
    trained: dict[str, Any] | None = notes.get("stain")
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


def _choose(setting: str, trained: Mapping[str, Any]) -> Normalizer | None:
    method = trained["method"] if setting == AUTO else setting
    if method == NONE:
        return None
    if method in NORMALIZERS:
        is_as_trained = method == trained["method"]
        target = StainStatistics.from_dict(trained["target"]) if is_as_trained else None
        return make_normalizer(method, target)
    if not Path(setting).is_file():
        raise FileNotFoundError(
            f"stain={setting} is no file, nor one of: {', '.join((AUTO, NONE, *NORMALIZERS))}"
        )
    if _is_json(setting):
        target = StainStatistics.load(setting)
        return make_normalizer(target.method, target)
    method = METHOD_OF_A_PICTURE if trained["method"] == NONE else trained["method"]
    return build_normalizer(method, setting)


def _is_json(path: str) -> bool:
    return Path(path).suffix.lower() == ".json"


def _shorten(description: Mapping[str, Any]) -> str:
    """Return a description for a line of the log: the target's numbers would fill it."""
    target = description.get("target")
    if target is None:
        return str(description["method"])
    numbers = target.get("stain_matrix") or target.get("lab_mean")
    return f"{description['method']} to {numbers}"
