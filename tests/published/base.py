"""What a test knows of a data set that it wrote to a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataloader.annotations import AnnotatedImage


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
