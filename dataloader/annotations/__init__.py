"""Annotated data sets: one adapter for each published layout, all read through the same protocol."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dataloader.annotations.base import AnnotatedImage, AnnotationAdapter
from dataloader.annotations.coco import CocoAdapter
from dataloader.annotations.colour_masks import ColourMasksAdapter
from dataloader.annotations.conic import ConicAdapter
from dataloader.annotations.consep import ConsepAdapter
from dataloader.annotations.folder import FolderAdapter
from dataloader.annotations.geojson import GeojsonAdapter
from dataloader.annotations.kumar import open_cpm17, open_kumar
from dataloader.annotations.lizard import LizardAdapter
from dataloader.annotations.merging import MergedAdapter
from dataloader.annotations.monusac import MonusacAdapter
from dataloader.annotations.monuseg import MonusegAdapter
from dataloader.annotations.nuinsseg import NuinssegAdapter
from dataloader.annotations.pannuke import PannukeAdapter
from dataloader.annotations.tnbc import TnbcAdapter

ADAPTERS: dict[str, Callable[..., AnnotationAdapter]] = {
    "coco": CocoAdapter,
    "colour_masks": ColourMasksAdapter,
    "conic": ConicAdapter,
    "consep": ConsepAdapter,
    "cpm17": open_cpm17,
    "folder": FolderAdapter,
    "geojson": GeojsonAdapter,
    "kumar": open_kumar,
    "lizard": LizardAdapter,
    "monusac": MonusacAdapter,
    "monuseg": MonusegAdapter,
    "nuinsseg": NuinssegAdapter,
    "pannuke": PannukeAdapter,
    "tnbc": TnbcAdapter,
}

__all__ = ["ADAPTERS", "AnnotatedImage", "AnnotationAdapter", "open_annotations"]


def open_annotations(
    name: str,
    root: str | Path,
    *,
    merge_types: Sequence[int] = (),
    merged_names: Sequence[str] = (),
    **options: Any,
) -> AnnotationAdapter:
    """Open an annotated data set.

    Args:
        name: a key of ``ADAPTERS``.
        root: folder of the data set, as it was published.
        merge_types: new type of each type of the data set, in order, background first; empty leaves them.
        merged_names: names of the new types, background first.
        options: settings of that adapter, such as ``types="raw"`` of CoNSeP; one that is empty or 0 is left out.

    Raises:
        ValueError: for an unknown name, or an option that the adapter does not have or take.
        FileNotFoundError: where ``root`` is not a folder.
    """
    if name not in ADAPTERS:
        raise ValueError(f"adapter={name!r} is not known; use one of: {', '.join(sorted(ADAPTERS))}")
    given = {key: value for key, value in options.items() if value}
    known = list(inspect.signature(ADAPTERS[name]).parameters)[1:]
    for key, value in given.items():
        if key not in known:
            raise ValueError(
                f"data.{key}={value} is no setting of adapter {name!r}, which has: {', '.join(known) or 'none'}"
            )
    adapter = ADAPTERS[name](root, **given)
    return MergedAdapter(adapter, merge_types, merged_names) if merge_types else adapter
