"""COCO (Lin et al. 2014): a JSON of images, categories and annotations for each split, each annotation one nucleus.

The JSON is ``annotations/instances_<split>.json``, ``annotations/<split>.json``, ``<split>/<any>.json``, or a single
one in the root (split ``All``). An image is looked for by its ``file_name`` beside the JSON, in ``images/<split>``,
``<split>`` and ``images``. Segmentations are polygons, or run lengths, plain or packed. ``iscrowd`` is not read: tools
such as CVAT set it for every mask of run lengths.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dataloader.annotations.base import AnnotatedImage, read_rgb, renumber
from dataloader.annotations.generic import check_class_names, check_mpp
from dataloader.annotations.maps import show
from dataloader.annotations.pairs import ALL, Pair, PairIndex, find_files
from dataloader.annotations.polygons import Polygon, draw_polygons
from dataloader.annotations.run_lengths import decode_runs

PREFIX = "instances_"  # of COCO's own files of annotations

logger = logging.getLogger(__name__)


@dataclass
class _Split:
    """What a JSON says: categories by id; files; size and nuclei of each image by the image's name."""

    categories: dict[int, str]
    pairs: list[Pair] = field(default_factory=list)
    sizes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    annotations: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class CocoAdapter:
    """Images with COCO annotations; the categories are the types.

    Args:
        root: folder that holds the JSON files and images.
        mpp: µm/px of the images.
        class_names: names of the categories in the order of their types, background first; empty takes the file's,
            in the order of their ids.

    Raises:
        FileNotFoundError: where ``root`` is not a folder, or an image is missing.
        ValueError: without ``mpp``, or for a JSON that is truncated or malformed.
    """

    name = "coco"

    def __init__(self, root: str | Path, *, mpp: float = 0.0, class_names: Sequence[str] = ()) -> None:
        root = Path(root)
        self.mpp = check_mpp(self.name, mpp)
        self._splits = {split: _load(path, split, root) for split, path in _find_files(root)}
        pairs = [(split, pair) for split, content in self._splits.items() for pair in content.pairs]
        self._files = PairIndex(root, "annotations/*.json and images", pairs)
        self.class_names = check_class_names(class_names) or self._list_categories()

    def list_splits(self) -> list[str]:
        """Return the splits that have a JSON."""
        return self._files.list_splits()

    def list_names(self, split: str) -> list[str]:
        """Return the names of a split's images; raises as ``PairIndex.list_names``."""
        return self._files.list_names(split)

    def files(self, split: str, name: str) -> list[Path]:
        """Return an image's file and the JSON of its split."""
        pair = self._files.find(split, name)
        return [pair.image, pair.labels]

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image and its nuclei; where they overlap, the later annotation lies on top.

        Raises:
            FileNotFoundError: where there is no such image.
            ValueError: for a truncated image, sizes that differ, a malformed outline, or a type without a name.
        """
        pair = self._files.find(split, name)
        content = self._splits[split]
        image = read_rgb(pair.image)
        if content.sizes[name] != image.shape[:2]:
            raise ValueError(
                f"{pair.labels}: {pair.image.name} is {content.sizes[name]} (height, width) there, but the file is "
                f"{image.shape[:2]}; take both from one export"
            )
        annotations = content.annotations[name]
        whats = [f"{pair.labels}: annotation {annotation.get('id')}" for annotation in annotations]
        types = [
            self._find_type(what, content.categories.get(annotation.get("category_id", -1)))
            for what, annotation in zip(whats, annotations, strict=True)
        ]
        numbers = _draw(pair.labels, whats, annotations, image.shape[:2])
        return AnnotatedImage(name, image, renumber(numbers), np.array([0, *types], np.uint8)[numbers])

    def _find_type(self, what: str, category: str | None) -> int:
        if category is None:
            raise ValueError(f"{what} has a category_id that is not among the categories; add the category")
        if category not in self.class_names[1:]:
            raise ValueError(
                f"{what} is of category {category!r}, which the types {list(self.class_names)} lack; add it to "
                "data.class_names"
            )
        return self.class_names.index(category)

    def _list_categories(self) -> tuple[str, ...]:
        names = ["background"]
        for content in self._splits.values():
            for _, name in sorted(content.categories.items()):
                if name not in names:
                    names.append(name)
        return tuple(names)


def _find_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Find the JSON of each split, the splits all different."""
    found: dict[str, Path] = {}
    single = find_files(root, ".json")
    candidates = [
        (path.stem.removeprefix(PREFIX), path) for path in find_files(root / "annotations", ".json")
    ]
    candidates += [(ALL, path) for path in single]
    for path in sorted(root.glob("*/*.json")):
        if path.parent.name != "annotations" and not path.name.startswith("."):
            candidates.append((path.parent.name, path))
    for split, path in candidates:
        if split in found:
            raise ValueError(f"{path}: split {split} has {found[split]} already; remove either")
        found[split] = path
    yield from found.items()


def _load(path: Path, split: str, root: Path) -> _Split:
    try:
        content = orjson.loads(path.read_bytes())
        result = _Split({kind["id"]: str(kind["name"]) for kind in content["categories"]})
        names = {}
        for item in content["images"]:
            names[item["id"]] = name = Path(item["file_name"]).stem
            if name in result.annotations:
                raise ValueError(f"{path}: two images are called {name!r}; rename either")
            result.annotations[name] = []
            result.sizes[name] = item["height"], item["width"]
            result.pairs.append(Pair(_find_image(path, split, root, item["file_name"]), path))
        for annotation in content["annotations"]:
            result.annotations[names[annotation["image_id"]]].append(annotation)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: not a whole JSON file ({error}); export it again") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not COCO's images, categories and annotations ({error!r} is wrong or missing); export it again"
        ) from error
    return result


def _find_image(path: Path, split: str, root: Path, file_name: str) -> Path:
    folders = [
        path.parent,
        path.parent / "images",
        root / "images" / split,
        root / split,
        root / "images",
        root,
    ]
    for folder in folders:
        if (folder / file_name).is_file():
            return folder / file_name
    raise FileNotFoundError(
        f"{path}: no image {file_name!r} beside it, in images/{split}, {split} or images; add it or remove its "
        "entry"
    )


def _draw(
    path: Path, whats: Sequence[str], annotations: Sequence[dict[str, Any]], shape: tuple[int, ...]
) -> np.ndarray:
    """Return (H, W) int32 that holds 1 + the index of the annotation on top, 0 for background."""
    polygons: dict[int, list[Polygon]] = {}
    masked = np.zeros(shape, np.int32)
    for number, (what, annotation) in enumerate(zip(whats, annotations, strict=True), start=1):
        segmentation = annotation.get("segmentation")
        try:
            if isinstance(segmentation, dict):
                masked[decode_runs(segmentation, shape)] = number
            else:
                polygons[number] = _read_polygons(segmentation)
        except ValueError as error:
            raise ValueError(f"{what} has {error}; mend or remove it") from error
    numbers = np.array([0, *polygons], np.int32)
    names = [whats[number - 1].rpartition(": ")[2] for number in polygons]
    drawn = numbers[
        draw_polygons(list(polygons.values()), (shape[0], shape[1]), names=names, source=str(path))
    ]
    label_map = np.maximum(masked, drawn)  # the later annotation has the greater number
    if len(polygons) < len(annotations):
        _report_lost(path, whats, label_map)
    return label_map


def _report_lost(path: Path, whats: Sequence[str], label_map: np.ndarray) -> None:
    sizes = np.bincount(label_map.ravel(), minlength=len(whats) + 1)[1:]
    lost = [whats[int(index)].rpartition(": ")[2] for index in np.flatnonzero(sizes == 0)]
    if lost:
        logger.warning("%s: %d of %d nuclei have no pixel: %s", path, len(lost), len(whats), show(lost))


def _read_polygons(segmentation: Any) -> list[Polygon]:
    """Return the polygons of a nucleus, each one ring of (N, 2) x and y in px: COCO's have no holes."""
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("no segmentation")
    rings = []
    for points in segmentation:
        if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
            raise ValueError("a polygon that is no list of x1, y1, x2, y2, x3, y3, …")
        try:
            rings.append([np.array(points, float).reshape(-1, 2)])
        except (TypeError, ValueError) as error:
            raise ValueError(f"a polygon with values that are no numbers ({error})") from error
    return list(rings)
