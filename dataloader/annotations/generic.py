"""What the adapters of users' own data share: ``images/`` beside a folder of labels, in the root or in each split.

Such a data set does not say its µm/px nor, mostly, the names of its types: the settings do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dataloader.annotations.pairs import ALL, Pair, PairIndex, find_files

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def check_mpp(adapter: str, mpp: float) -> float:
    """Return the µm/px of a data set that does not say it.

    Raises:
        ValueError: where it is not above 0.
    """
    if not mpp > 0:
        raise ValueError(
            f"mpp={mpp}: adapter {adapter!r} cannot know µm/px; set data.mpp, such as data.mpp=0.25"
        )
    return mpp


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the types, background first; empty without types.

    Raises:
        ValueError: where the first is not background, there is no other, or one stands twice.
    """
    names = tuple(class_names)
    if names and (names[0] != "background" or len(names) < 2 or len(set(names)) < len(names)):
        raise ValueError(
            f"class_names={list(names)} must be background and then the name of each type, all different; "
            "set data.class_names=[background,…]"
        )
    return names


def index_pairs(root: Path, folder: str, suffixes: Sequence[str]) -> PairIndex:
    """Find the pairs of ``images/`` and a folder of labels, in the root (split ``All``) or in each split's folder.

    Args:
        root: folder of the data set.
        folder: name of the folder of labels.
        suffixes: of the files of labels.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
        ValueError: where an image has several files of labels, or a name several images.
    """
    return PairIndex(
        root, f"images and {folder}, or a folder a split with both", _find_pairs(root, folder, suffixes)
    )


def _find_pairs(root: Path, folder: str, suffixes: Sequence[str]) -> Iterator[tuple[str, Pair]]:
    for images_dir in [root / "images", *sorted(root.glob("*/images"))]:
        labels: dict[str, list[Path]] = {}
        for path in find_files(images_dir.parent / folder, *suffixes):
            labels.setdefault(path.stem, []).append(path)
        split = ALL if images_dir.parent == root else images_dir.parent.name
        for image in find_files(images_dir, *IMAGE_SUFFIXES):
            found = labels.get(image.stem, [images_dir.parent / folder / f"{image.stem}{suffixes[0]}"])
            if len(found) > 1:
                raise ValueError(f"{found[0]}: {found[1].name} is for the same image; remove either")
            yield split, Pair(image, found[0])
