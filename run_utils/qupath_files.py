"""Reads nuclei that people drew or exported in QuPath: GeoJSON of polygons or points, and TSV of points."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dataloader.annotations.polygons import Polygon, draw_polygons
from metrics.detection import UNLABELLED
from run_utils.image_nuclei import ImageNuclei
from run_utils.outputs.geojson_file import FACTS, GZIP_MAGIC

Feature = dict[str, Any]


def is_ours(path: Path) -> bool:
    """Return whether inference wrote a GeoJSON; a file that is no JSON is not ours."""
    content = _load(path)
    return isinstance(content, dict) and FACTS in content


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
    content = _load(path)
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise ValueError(f"{path} is no GeoJSON: it has no list of features; export it from QuPath again")
    kinds = {_kind(feature, f"{path}: feature {number}") for number, feature in enumerate(features, start=1)}
    types = _types([_class_name(feature) for feature in features], type_names, path)
    ids = np.arange(1, len(features) + 1)
    if kinds and kinds <= {"Point", "MultiPoint"}:
        points = [
            np.atleast_2d(feature["geometry"]["coordinates"])[:, 1::-1].astype(float) for feature in features
        ]
        counts = [len(group) for group in points]
        return ImageNuclei(
            str(path),
            ids=np.arange(1, sum(counts) + 1),
            types=None if types is None else np.repeat(types, counts),
            centroids=np.concatenate(points) - 0.5,
        )
    if not kinds <= {"Polygon", "MultiPolygon"}:
        raise ValueError(
            f"{path} holds {', '.join(sorted(kinds))}; give a file of Polygon and MultiPolygon, or of Point alone"
        )
    nuclei = [_polygons(feature["geometry"]) for feature in features]
    centroids = np.array([_centroid(polygons[0][0]) for polygons in nuclei]).reshape(-1, 2)
    height, width = (np.round(centroids.max(axis=0, initial=-1)).astype(int) + 1).tolist()
    return ImageNuclei(
        str(path),
        draw=lambda shape: draw_polygons(nuclei, shape, source=str(path)),
        extent=(height, width),  # outlines drawn across the image's border are cut off
        ids=ids,
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


def _load(path: Path) -> Any:
    data = path.read_bytes()
    try:
        return orjson.loads(gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data)
    except (orjson.JSONDecodeError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}; write it again") from error


def _kind(feature: Feature, what: str) -> str:
    """Return the type of a feature's geometry, such as Polygon."""
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    if not isinstance(geometry, dict) or not geometry.get("coordinates"):
        raise ValueError(f"{what} has no geometry with coordinates; remove it, or draw it again")
    return str(geometry.get("type"))


def _class_name(feature: Feature) -> str:
    """Return an object's class; "" for none. QuPath 0.2 and earlier call the detection's class the same."""
    found = (feature.get("properties") or {}).get("classification") or {}
    return str(found.get("name") or "/".join(found.get("names", [])))


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


def _polygons(geometry: dict[str, Any]) -> list[Polygon]:
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    return [[np.asarray(ring, np.float64)[:, :2] for ring in part] for part in parts]


def _centroid(ring: np.ndarray) -> np.ndarray:
    """Return (y, x) of the middle of a ring's area, as a mean of pixel indices."""
    x, y = (ring - ring[0]).T
    following_x, following_y = np.roll(x, -1), np.roll(y, -1)
    weights = x * following_y - following_x * y
    if not weights.sum():
        return ring.mean(axis=0)[::-1] - 0.5
    sums = np.sum([(y + following_y) * weights, (x + following_x) * weights], axis=1)
    return sums / (3 * weights.sum()) + ring[0][::-1] - 0.5
