"""What can be wrong with a data set: each kind of complaint, how bad it is, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dataloader.annotations import AnnotationAdapter
from dataloader.annotations.base import files_of

ERROR, WARNING = "error", "warning"
MAX_FILES = 3  # that a complaint names


class Kind(NamedTuple):
    """How bad a kind of complaint is, what it is called, and its remedy."""

    severity: str
    title: str
    remedy: str


KINDS: dict[str, Kind] = {
    "unreadable": Kind(
        ERROR, "refused files", "mend or fetch the file as its line says, or remove the image"
    ),
    "split": Kind(ERROR, "splits that cannot be listed", "give data.root as the data set was published"),
    "sizes": Kind(ERROR, "sizes that differ", "export image and maps of one height and width again"),
    "dtype": Kind(ERROR, "unexpected dtype", "save images as 8-bit RGB, maps as whole numbers"),
    "ids": Kind(ERROR, "wrong ids", "number the nuclei from 1, with 0 for background"),
    "types": Kind(
        ERROR, "types beyond the class list", "name every type in data.class_names, or mend the file"
    ),
    "same_pixels": Kind(
        ERROR, "one image in two splits", "keep it in one split: scores on the other mean nothing"
    ),
    "near_duplicate": Kind(
        WARNING,
        "nearly one image in two splits",
        "look at both; where one shows the other, keep them in one split",
    ),
    "same_name": Kind(
        WARNING,
        "one name in two splits",
        "make sure they are different images; take patients apart, not crops",
    ),
    "repeated": Kind(WARNING, "one image twice in a split", "remove either: it counts twice"),
    "empty": Kind(WARNING, "no nucleus", "right where there is none; annotate it or leave it out otherwise"),
    "blank": Kind(WARNING, "image of one colour", "check the export; leave the image out"),
    "tiny": Kind(
        WARNING, "tiny nuclei", "remove specks of the annotation, or lower min_area where they are real"
    ),
    "giant": Kind(
        WARNING,
        "giant nuclei",
        "split merged nuclei, check data.mpp, or raise max_area_um2 where they are real",
    ),
    "pieces": Kind(
        WARNING, "nuclei in several pieces", "give each piece an id, or join them; training takes them apart"
    ),
    "untyped": Kind(
        WARNING, "nuclei without a type", "type them: training takes them for background of the type map"
    ),
    "mixed": Kind(
        WARNING, "nuclei of several types", "give each nucleus one type; the most frequent one is counted"
    ),
    "stray_types": Kind(WARNING, "types outside nuclei", "set the type map to 0 where the label map is 0"),
    "absent_type": Kind(
        WARNING, "types without a nucleus", "check data.class_names and data.types; merge rare types"
    ),
}


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong.

    Attributes:
        kind: key of ``KINDS``.
        split: where it is.
        name: image that it is about; empty where it is about the split.
        detail: what was found.
        files: paths under the data set's root that belong to the image, as its adapter or their names tell.
    """

    kind: str
    split: str
    name: str
    detail: str
    files: tuple[str, ...] = ()

    @property
    def severity(self) -> str:
        """``error`` or ``warning``."""
        return KINDS[self.kind].severity

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        kind = KINDS[self.kind]
        return {
            "severity": kind.severity,
            "kind": self.kind,
            "split": self.split,
            "image": self.name,
            "files": list(self.files),
            "detail": self.detail,
            "remedy": kind.remedy,
        }


class FileIndex:
    """The files under a data set's root, to tell which ones belong to an image: its adapter says so, or their names.

    Args:
        root: folder of the data set; may be missing.
        adapter: of the data set.
    """

    def __init__(self, root: Path, adapter: AnnotationAdapter) -> None:
        self._root = root
        self._adapter = adapter
        self._paths: dict[str, list[Path]] = {}
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                self._paths.setdefault(path.stem, []).append(path.relative_to(root))

    def find(self, split: str, name: str) -> tuple[str, ...]:
        """Return the paths of an image's files, else of those called like it, below its split's folder if there are."""
        named = files_of(self._adapter, split, name)
        if named:
            return tuple(self._shorten(path) for path in named)
        found = self._paths.get(name, [])
        inside = [path for path in found if split in path.parts]
        return tuple(path.as_posix() for path in (inside or found)[:MAX_FILES])

    def _shorten(self, path: Path) -> str:
        return (path.relative_to(self._root) if path.is_relative_to(self._root) else path).as_posix()


def is_sound(complaints: Iterable[Complaint]) -> bool:
    """Return whether no complaint is an error."""
    return all(complaint.severity != ERROR for complaint in complaints)


def format_complaints(complaints: Sequence[Complaint], num_shown: int) -> str:
    """Return complaints as text, errors first: each kind with its remedy, then the first few images it is about."""
    lines = []
    for key, kind in KINDS.items():
        own = [complaint for complaint in complaints if complaint.kind == key]
        if not own:
            continue
        lines.append(f"{kind.severity.upper()}: {kind.title} ({len(own)}). Remedy: {kind.remedy}.")
        for complaint in own[:num_shown]:
            where = "/".join(filter(None, (complaint.split, complaint.name)))
            files = f" [{', '.join(complaint.files)}]" if complaint.files else ""
            lines.append(f"  {where}: {complaint.detail}{files}")
        if len(own) > num_shown:
            lines.append(f"  and {len(own) - num_shown} more, in the report")
    counts = Counter(complaint.severity for complaint in complaints)
    lines.append(f"{counts[ERROR]} errors, {counts[WARNING]} warnings")
    return "\n".join(lines)
