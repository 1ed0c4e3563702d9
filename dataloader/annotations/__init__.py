"""Annotated data sets: one adapter for each published layout, all read through the same protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataloader.annotations.base import AnnotatedImage, AnnotationAdapter
from dataloader.annotations.consep import ConsepAdapter

ADAPTERS: dict[str, Callable[..., AnnotationAdapter]] = {"consep": ConsepAdapter}

__all__ = ["ADAPTERS", "AnnotatedImage", "AnnotationAdapter", "open_annotations"]


def open_annotations(name: str, root: str | Path, **options: Any) -> AnnotationAdapter:
    """Open an annotated data set.

    Args:
        name: a key of ``ADAPTERS``.
        root: folder of the data set, as it was published.
        options: settings of that adapter, such as ``types="raw"`` of CoNSeP.

    Raises:
        ValueError: for an unknown name or option value.
        FileNotFoundError: where ``root`` is not a folder.
    """
    if name not in ADAPTERS:
        raise ValueError(f"adapter={name!r} is not known; use one of: {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[name](root, **options)
