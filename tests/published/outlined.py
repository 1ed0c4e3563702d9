"""Nuclei as outlines in QuPath's GeoJSON and in COCO, written by the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dataloader.annotations import AnnotatedImage
from tests.annotated import make_annotated
from tests.published.base import Published
from tests.published.generic import CLASS_NAMES, save_image

Ring = list[list[int]]
Outlines = dict[int, list[list[Ring]]]  # of each nucleus its polygons, the outer ring before the holes


def rectangle(x: int, y: int, right: int, bottom: int) -> Ring:
    """Return a closed ring along the edges of pixels."""
    return [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]


def make_outlined(name: str, seed: int) -> tuple[AnnotatedImage, Outlines]:
    """Squares, of which one has a hole, one two parts, and the last touches one and lies on another."""
    item = make_annotated(name, seed=seed)
    outlines: Outlines = {}
    for i in range(1, item.label_map.max() + 1):
        (y, *_, bottom), (x, *_, right) = (
            np.unique(axis).tolist() for axis in np.nonzero(item.label_map == i)
        )
        outlines[i] = [[rectangle(x, y, right + 1, bottom + 1)]]
    outlines[1][0].append(rectangle(3, 3, 4, 5))
    outlines[2].append([rectangle(9, 7, 12, 8)])
    last = len(outlines) + 1
    outlines[last] = [[rectangle(22, 1, 28, 6)]]
    for box, number, type_id in (
        (np.s_[3:5, 3:4], 0, 0),
        (np.s_[7:8, 9:12], 2, item.type_map[1, 9]),
        (np.s_[1:6, 22:28], last, 1),
    ):
        item.label_map[box], item.type_map[box] = number, type_id
    return item, outlines


def types_of(item: AnnotatedImage) -> list[int]:
    """Return the type of each nucleus, in the order of the ids."""
    return [int(item.type_map[item.label_map == i][0]) for i in range(1, item.label_map.max() + 1)]


def make_feature(polygons: list[list[Ring]], classification: str) -> dict[str, Any]:
    """Return a nucleus as QuPath exports it."""
    is_single = len(polygons) == 1
    geometry = {
        "type": "Polygon" if is_single else "MultiPolygon",
        "coordinates": polygons[0] if is_single else polygons,
    }
    properties = {"objectType": "annotation", "classification": {"name": classification, "color": [0, 1, 2]}}
    return {"type": "Feature", "id": "0", "geometry": geometry, "properties": properties}


def publish_geojson(root: Path) -> Published:
    """Write two splits, of which one is a list of features instead of a collection."""
    images: dict[str, list[AnnotatedImage]] = {}
    for split, names in (("train", ("a_2", "a_10")), ("test", ("b_1",))):
        (root / split / "geojson").mkdir(parents=True)
        for seed, name in enumerate(names):
            item, outlines = make_outlined(name, seed)
            save_image(root / split / "images", item)
            kinds = [CLASS_NAMES[number] for number in types_of(item)]
            features = [make_feature(outlines[i], kinds[i - 1]) for i in outlines]
            content = {"type": "FeatureCollection", "features": features} if split == "train" else features
            (root / split / "geojson" / f"{name}.geojson").write_text(json.dumps(content))
            images.setdefault(split, []).append(item)
    files = (root / "train" / "images" / "a_2.png", root / "train" / "geojson" / "a_2.geojson")
    return Published(images, {"mpp": 0.25, "class_names": CLASS_NAMES}, files)


def publish_coco(root: Path) -> Published:
    """Write two splits; nuclei with holes are packed run lengths, the one on top plain ones."""
    images: dict[str, list[AnnotatedImage]] = {}
    categories = [{"id": 10 * i, "name": name} for i, name in enumerate(CLASS_NAMES) if i]
    (root / "annotations").mkdir(parents=True)
    for split, names in (("train", ("a_2", "a_10")), ("val", ("b_1",))):
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories[::-1]}
        for seed, name in enumerate(names):
            item, outlines = make_outlined(name, seed)
            path = save_image(root / "images" / split, item)
            height, width = item.label_map.shape
            row = {"id": 100 + seed, "file_name": path.name, "height": height, "width": width}
            content["images"].append(row)
            for i, type_id in zip(outlines, types_of(item), strict=True):
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]),
                        "image_id": 100 + seed,
                        "category_id": 10 * type_id,
                        "iscrowd": 0,
                        "segmentation": make_segmentation(outlines, i, item.label_map),
                    }
                )
            images.setdefault(split, []).append(item)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    files = (root / "images" / "train" / "a_2.png", root / "annotations" / "instances_train.json")
    return Published(images, {"mpp": 0.25}, files)


def make_segmentation(outlines: Outlines, number: int, label_map: np.ndarray) -> Any:
    """Return COCO's segmentation of a nucleus."""
    polygons = outlines[number]
    if number == len(outlines) or any(len(polygon) > 1 for polygon in polygons):
        runs = find_runs(label_map == number)
        return {"size": list(label_map.shape), "counts": runs if number == len(outlines) else pack(runs)}
    return [[value for point in polygon[0][:-1] for value in point] for polygon in polygons]


def find_runs(mask: np.ndarray) -> list[int]:
    """Return the lengths of the runs down the columns, background first; the slow way."""
    runs, current = [0], False
    for value in mask.ravel(order="F").tolist():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    return runs


def pack(runs: list[int]) -> str:
    """Return run lengths as the text that COCO's tools write."""
    text = ""
    for index, run in enumerate(runs):
        value = run - (runs[index - 2] if index > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            is_last = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if is_last else 32))
            if is_last:
                break
    return text
