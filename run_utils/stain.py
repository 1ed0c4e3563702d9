"""From a setting to a stain normaliser, its target read from a file; training, inference and the command share it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataloader.slides import open_slide
from dataloader.stain import Normalizer, StainStatistics, make_normalizer
from dataloader.tissue_pixels import sample_slide


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
    if Path(path).suffix.lower() == ".json":
        return StainStatistics.load(path)
    with open_slide(path) as slide:
        statistics = make_normalizer(method).estimate(sample_slide(slide))
    if statistics.is_identity:
        raise ValueError(f"{path} shows too little stain to be a target; choose one with more tissue")
    return statistics


def describe_stain(method: str, normalizer: Normalizer | None) -> dict[str, Any]:
    """Return as plain data what a checkpoint and a run's record say: the method, and the target."""
    return {"method": method} | ({} if normalizer is None else {"target": normalizer.target.to_dict()})
