"""Reads nuclei that people drew or exported in QuPath: GeoJSON of polygons or points, and TSV of points."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from dataloader.annotations.polygons import draw_polygons
from dataloader.annotations.qupath import (
    SHAPES,
    Feature,
    class_of,
    geometry_of,
    has_features,
    load_features,
    load_json,
    polygons_of,
)
from metrics.detection import UNLABELLED
from run_utils.image_nuclei import ImageNuclei
from run_utils.outputs.geojson_file import FACTS


def is_ours(path: Path) -> bool:
    """Return whether inference wrote a GeoJSON.

    Raises:
        ValueError: for a file that is no JSON.
    """
    content = load_json(path)
    return isinstance(content, dict) and FACTS in content


def is_geojson(path: Path) -> bool:
    """Return whether a JSON file is GeoJSON, whatever its ending.

    Raises:
        ValueError: for a file that is no JSON.
    """
    return has_features(load_json(path))


def read_objects(path: Path, type_names: tuple[str, ...]) -> ImageNuclei:
    """Read the objects of a GeoJSON: a Polygon or MultiPolygon is one nucleus; Points are nuclei without shape.

    Positions are (x, y) px of the image, pixel (row, column) covering ``[column, column + 1) x [row, row + 1)``. A
    centroid is that of the outer ring's area.

    Args:
        path: of the file, compressed or not.
        type_names: name of each type, background first; a nucleus whose class is none of them is an error. Without
            names there are no types.

    Raises:
        ValueError: for a file that is no GeoJSON, mixes points and polygons, or holds another geometry.
    """
    features = load_features(path)
    labels = [f"{path}: feature {number}" for number in range(1, len(features) + 1)]
    kinds = {_kind(feature, what) for what, feature in zip(labels, features, strict=True)}
    names = [class_of(what, feature) for what, feature in zip(labels, features, strict=True)]
    types = _types(names, type_names, path)
    if kinds and kinds <= {"Point", "MultiPoint"}:
        points = [np.atleast_2d(geometry_of(feature)["coordinates"])[:, 1::-1] for feature in features]
        counts = [len(group) for group in points]
        return ImageNuclei(
            str(path),
            ids=np.arange(1, sum(counts) + 1),
            types=None if types is None else np.repeat(types, counts),
            centroids=np.concatenate(points).astype(float) - 0.5,
        )
    if not kinds <= set(SHAPES):
        raise ValueError(
            f"{path} holds {', '.join(sorted(kinds))}; give a file of Polygon and MultiPolygon, or of Point alone"
        )
    nuclei = [polygons_of(what, feature) for what, feature in zip(labels, features, strict=True)]
    outer = [polygon[0] for polygons in nuclei for polygon in polygons]
    centroids = np.array([_centroid(polygons[0][0]) for polygons in nuclei]).reshape(-1, 2)
    return ImageNuclei(
        str(path),
        draw=lambda shape: draw_polygons(nuclei, shape, source=str(path)),
        extent=_size(np.round(centroids)),  # outlines drawn across the image's border are cut off
        canvas=_size(np.floor(np.concatenate([np.zeros((0, 2)), *outer])[:, ::-1])),
        ids=np.arange(1, len(features) + 1),
        types=types,
        centroids=centroids,
    )


def read_points(path: Path, type_names: tuple[str, ...]) -> ImageNuclei:
    """Read a table of points, tab-separated with the columns x, y and class, as QuPath and the reference have it.

    Raises:
        ValueError: for a file without these columns, or whose positions are no numbers.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    try:
        points = np.array([(float(row["y"]), float(row["x"])) for row in rows]).reshape(-1, 2)
        classes = [row["class"] for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: {error}; numbers in the columns x and y and names in class are needed"
        ) from error
    types = _types(classes, type_names, path)
    if types is None:
        raise ValueError(f"{path} names types; give type_names=[…] in their order, background first")
    return ImageNuclei(str(path), ids=np.arange(1, len(rows) + 1), types=types, centroids=points - 0.5)


def _kind(feature: Feature, what: str) -> str:
    """Return the type of the geometry of a feature's nucleus, such as Polygon."""
    geometry = geometry_of(feature)
    if not geometry.get("coordinates"):
        raise ValueError(f"{what} has no geometry with coordinates; remove it, or draw it again")
    return str(geometry.get("type"))


def _size(pixels: np.ndarray) -> tuple[int, int]:
    """Return (H, W) of the smallest image that has the pixels (N, 2), (y, x)."""
    height, width = (pixels.max(axis=0, initial=-1).astype(int) + 1).tolist()
    return height, width


def _types(names: list[str], type_names: tuple[str, ...], path: Path) -> np.ndarray | None:
    """Return the number (K,) of each class name, -1 for ""; None where there are no names to number them by."""
    if not type_names:
        return None
    numbers = {name.lower(): number for number, name in enumerate(type_names)} | {"": UNLABELLED}
    unknown = sorted({name for name in names if name.lower() not in numbers})
    if unknown:
        raise ValueError(
            f"{path}: class {unknown[0]!r} is none of type_names={list(type_names)}; name every type"
        )
    return np.array([numbers[name.lower()] for name in names], np.int64)


def _centroid(ring: np.ndarray) -> np.ndarray:
    """Return (y, x) of the middle of a ring's area, as a mean of pixel indices."""
    x, y = (ring - ring[0]).T
    following_x, following_y = np.roll(x, -1), np.roll(y, -1)
    weights = x * following_y - following_x * y
    if not weights.sum():
        return ring.mean(axis=0)[::-1] - 0.5
    sums = np.sum([(y + following_y) * weights, (x + following_x) * weights], axis=1)
    return sums / (3 * weights.sum()) + ring[0][::-1] - 0.5
