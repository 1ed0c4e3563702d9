"""What the normalisers take for a target and for the sources of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dataloader.stain.statistics import StainStatistics


def resolve_target(target: Any, estimate: Callable[[Any], StainStatistics]) -> StainStatistics:
    """Return the target's statistics: as they are, from a JSON file, or fitted on an image."""
    if isinstance(target, StainStatistics):
        return target
    if isinstance(target, str | Path):
        return StainStatistics.load(target)
    fitted = estimate(target)
    if fitted.is_identity:
        raise ValueError("the target image shows too little stain to fit; choose one with more tissue")
    return fitted


def as_sources(
    given: StainStatistics | Sequence[StainStatistics] | None, fitted: StainStatistics | None
) -> Sequence[StainStatistics]:
    """Return one source for all images, or one each."""
    sources = fitted if given is None else given
    if sources is None:
        raise ValueError("no source stain is known; call fit first, or pass source=")
    return [sources] if isinstance(sources, StainStatistics) else list(sources)
