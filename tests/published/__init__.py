"""Data sets in their published layouts, written by the tests: what the contract of the adapters reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataloader.annotations import AnnotatedImage
from tests.annotated import make_annotated, write_consep


@dataclass(frozen=True)
class Published:
    """A data set that was written to a folder.

    Attributes:
        images: what an adapter should read of it, by split, in the order of their names.
        options: of ``open_annotations``.
        files: an image file and an annotation file of some image; truncating either must be noticed.
    """

    images: dict[str, list[AnnotatedImage]]
    options: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def publish_consep(root: Path) -> Published:
    """Write two splits of CoNSeP."""
    images = {
        split: [make_annotated(f"{split.lower()}_{number}", seed=number) for number in numbers]
        for split, numbers in (("Train", (1, 2, 10)), ("Test", (3,)))
    }
    for split, annotated in images.items():
        write_consep(root, split, annotated)
    files = (root / "Train" / "Images" / "train_2.png", root / "Train" / "Labels" / "train_2.mat")
    return Published(images, {"types": "merged"}, files)


PUBLISHED: dict[str, Callable[[Path], Published]] = {"consep": publish_consep}
"""A row for each row of ``dataloader.annotations.ADAPTERS``."""
