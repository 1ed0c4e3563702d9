"""Which images a folder holds, and the file of nuclei of each: what adapters of paired files share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dataloader.annotations.base import IncompleteSplitError, sort_naturally

ALL = "All"  # the split of a data set without any


@dataclass(frozen=True)
class Pair:
    """An image and the file of its nuclei, which may turn out to be missing."""

    image: Path
    labels: Path

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.image.stem


class PairIndex:
    """The pairs of a data set, by split and name.

    Args:
        root: folder of the data set.
        layout: what the folder should hold, for messages.
        pairs: the split and the files of each image.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
        ValueError: where two images of a split have one name.
    """

    def __init__(self, root: Path, layout: str, pairs: Iterable[tuple[str, Pair]]) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder; give the one that holds {layout}")
        self._root = root
        self._layout = layout
        self._splits: dict[str, dict[str, Pair]] = {}
        for split, pair in pairs:
            first = self._splits.setdefault(split, {}).setdefault(pair.name, pair)
            if first.image != pair.image:
                raise ValueError(
                    f"{pair.image}: split {split} has {first.image} of the same name; remove either"
                )

    def list_splits(self) -> list[str]:
        """Return the splits, in natural order."""
        return sort_naturally(list(self._splits))

    def list_names(self, split: str) -> list[str]:
        """Return the names of a split's images, in natural order.

        Raises:
            FileNotFoundError: for a split that is not there, or an image without labels.
        """
        names = sort_naturally(list(self._of(split)))
        for pair in self._of(split).values():
            try:
                _check_labels(pair)
            except FileNotFoundError as error:
                raise IncompleteSplitError(str(error), names) from error
        return names

    def find(self, split: str, name: str) -> Pair:
        """Return the files of an image.

        Raises:
            FileNotFoundError: where there is no such split, image, or file of labels.
        """
        pairs = self._of(split)
        if name not in pairs:
            raise FileNotFoundError(
                f"{self._root}: split {split} has no image {name}; list_names({split!r}) gives the names"
            )
        _check_labels(pairs[name])
        return pairs[name]

    def _of(self, split: str) -> dict[str, Pair]:
        if split not in self._splits:
            found = ", ".join(self.list_splits()) or f"none, it should hold {self._layout}"
            raise FileNotFoundError(f"{self._root}: no images of split {split}; splits found: {found}")
        return self._splits[split]


def find_files(folder: Path, *suffixes: str) -> list[Path]:
    """Return a folder's files of some kinds, sorted, without the hidden ones that archives bring along."""
    paths = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(p for p in paths if p.suffix.lower() in suffixes and not p.name.startswith("."))


def _check_labels(pair: Pair) -> None:
    if not pair.labels.is_file():
        raise FileNotFoundError(
            f"{pair.labels}: no labels for image {pair.image.name}; add the file or remove the image"
        )
