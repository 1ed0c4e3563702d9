"""QuPath's GeoJSON as features: what the data set adapter and the evaluation of a file both read, so that they agree.

Each feature is one nucleus; of a cell, its ``nucleusGeometry`` is taken and not the cell's own border. Positions are
(x, y) px of the full image. The name of a class is QuPath's: the parts of a derived one are joined with ": ".
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dataloader.annotations.polygons import Polygon

Feature = dict[str, Any]

GZIP_MAGIC = b"\x1f\x8b"
SHAPES = ("Polygon", "MultiPolygon")


def load_json(path: Path) -> Any:
    """Return the content of a JSON file, compressed or not.

    Raises:
        ValueError: for a file that is not whole.
    """
    data = path.read_bytes()
    try:
        return orjson.loads(gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data)
    except (orjson.JSONDecodeError, OSError, EOFError) as error:
        raise ValueError(
            f"{path}: not a whole file, cannot be read as JSON: {error}; export it again"
        ) from error


def has_features(content: Any) -> bool:
    """Return whether the content of a JSON file has the form of GeoJSON."""
    return isinstance(content, list) or (
        isinstance(content, dict) and ("features" in content or content.get("type") == "Feature")
    )


def load_features(path: Path) -> list[Feature]:
    """Return the features of a FeatureCollection, of a list, or the one that the file is.

    Raises:
        ValueError: for a file that is no such GeoJSON.
    """
    content = load_json(path)
    if isinstance(content, dict):
        content = content.get("features", [content])
    if not isinstance(content, list) or not all(_is_feature(feature) for feature in content):
        raise ValueError(
            f"{path}: no FeatureCollection or list of features; export it from QuPath as GeoJSON"
        )
    return content


def class_of(what: str, feature: Feature) -> str:
    """Return the name of a feature's class, "" where it has none; some versions write it as text alone.

    Raises:
        ValueError: for a classification that is neither text nor names.
    """
    properties = feature.get("properties") or {}
    found = properties.get("classification") if isinstance(properties, dict) else properties
    if isinstance(found, dict):
        parts = found.get("names") or []
        found = found.get("name") or (": ".join(map(str, parts)) if isinstance(parts, list) else parts)
    if found and not isinstance(found, str):
        raise ValueError(f"{what}: the classification {found!r} is no name; give it one in QuPath")
    return found or ""


def geometry_of(feature: Feature) -> dict[str, Any]:
    """Return the geometry of a feature's nucleus, empty where it has none."""
    found = feature.get("nucleusGeometry") or feature.get("geometry")
    return found if isinstance(found, dict) else {}


def polygons_of(what: str, feature: Feature) -> list[Polygon]:
    """Return the polygons of a nucleus: rings of (N, 2) float x and y in px, the outer one first.

    Raises:
        ValueError: for another geometry, or one without an outline.
    """
    geometry = geometry_of(feature)
    kind, parts = geometry.get("type"), geometry.get("coordinates", [])
    if kind not in SHAPES:
        raise ValueError(
            f"{what} is a {kind}; a nucleus is a Polygon or MultiPolygon, remove the rest in QuPath"
        )
    try:
        polygons = [
            [np.array(ring, float)[:, :2] for ring in part]
            for part in (parts if kind == "MultiPolygon" else [parts])
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{what}: coordinates that are no rings of x and y ({error}); export it again"
        ) from error
    if not polygons or not all(polygons) or not all(len(polygon[0]) for polygon in polygons):
        raise ValueError(f"{what} has no outline; remove it, or export it again")
    return list(polygons)


def _is_feature(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("type", "Feature") == "Feature"
