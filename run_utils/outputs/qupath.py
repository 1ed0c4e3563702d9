"""GeoJSON for QuPath: each nucleus a detection, in level-0 pixels, as QuPath places it on the slide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from models.nuclei import Nuclei, NucleusType
from run_utils.outputs.colours import name_types
from run_utils.outputs.result import ImageResult, StoredResult
from run_utils.outputs.rings import contour_of_ring, fill_contour, ring_along_edges

FACTS = "hovernet"  # GeoJSON lets a collection carry members of its own (RFC 7946, 6.1)
DIGITS = 3  # of a level-0 pixel


def write(result: ImageResult, path: Path) -> None:
    """Write a FeatureCollection of closed polygons, (x, y) in level-0 pixels.

    A polygon runs along its pixels' edges: working pixel (y, x) covers [x, x + 1) x [y, y + 1), times
    ``level0_scale``, as QuPath counts. An object's name is the nucleus's id. Its measurements are the area
    (µm², where µm/px is known), the share of pixels that voted for the type, and each type's probability.
    """
    types = name_types(result.types, _num_types(result.nuclei))
    content = {
        "type": "FeatureCollection",
        FACTS: {
            "mpp": result.mpp,
            "level0_scale": result.level0_scale,
            "types": [[kind.name, list(kind.colour)] for kind in types],
        },
        "features": [_feature(result, row, types) for row in range(len(result.nuclei))],
    }
    path.write_text(json.dumps(content, separators=(",", ":"), allow_nan=False), encoding="utf-8")


def read(path: Path) -> StoredResult:
    """Read what ``write`` wrote; boxes, centroids and contours are those of the polygons' pixels."""
    content = json.loads(path.read_text(encoding="utf-8"))
    facts = content[FACTS]
    types = tuple(NucleusType(name, (colour[0], colour[1], colour[2])) for name, colour in facts["types"])
    return StoredResult(
        nuclei=_table(content["features"], facts["level0_scale"], [kind.name for kind in types]),
        mpp=facts["mpp"],
        level0_scale=facts["level0_scale"],
        types=types or None,
    )


def _num_types(nuclei: Nuclei) -> int:
    """Return how many types, background counted, the nuclei speak of; 0 without types."""
    if nuclei.type_probabilities is not None:
        return nuclei.type_probabilities.shape[1]
    return 0 if nuclei.types is None else int(nuclei.types.max(initial=0)) + 1


def _feature(result: ImageResult, row: int, types: tuple[NucleusType, ...]) -> dict[str, Any]:
    """Return one nucleus as a GeoJSON feature with the properties that QuPath reads."""
    nuclei = result.nuclei
    ring = np.round(ring_along_edges(nuclei.contour(row))[:, ::-1] * result.level0_scale, DIGITS)
    properties: dict[str, Any] = {"objectType": "detection", "name": str(nuclei.ids[row])}
    if nuclei.types is not None:
        name, colour = types[nuclei.types[row]]
        properties["classification"] = {"name": name, "color": list(colour)}
    properties["measurements"] = _measurements(result, row, types)
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring.tolist()]},
        "properties": properties,
    }


def _measurements(result: ImageResult, row: int, types: tuple[NucleusType, ...]) -> dict[str, float]:
    """Return a nucleus's figures under the names that QuPath's tables show."""
    nuclei = result.nuclei
    figures = {}
    if result.mpp is not None:
        mask, _ = fill_contour(nuclei.contour(row))
        figures["Area µm^2"] = float(mask.sum()) * result.mpp**2
    if nuclei.type_shares is not None:
        figures["Type share"] = float(nuclei.type_shares[row])
    if nuclei.type_probabilities is not None:
        for kind, probability in zip(types, nuclei.type_probabilities[row], strict=True):
            figures[f"Probability: {kind.name}"] = float(probability)
    return {name: round(figure, 6) for name, figure in figures.items()}


def _table(features: list[dict[str, Any]], level0_scale: float, names: list[str]) -> Nuclei:
    """Return the features as a table in working-resolution pixels."""
    contours, centroids, types = [], [], []
    for feature in features:
        ring = np.array(feature["geometry"]["coordinates"][0])[:, ::-1] / level0_scale
        contours.append(contour_of_ring(np.rint(ring).astype(np.int64)))
        mask, corner = fill_contour(contours[-1])
        centroids.append(np.argwhere(mask).mean(0) + corner)
        if names:
            types.append(names.index(feature["properties"]["classification"]["name"]))
    boxes = [(*contour.min(0), *(contour.max(0) + 1)) for contour in contours]
    return Nuclei(
        ids=np.array([int(feature["properties"]["name"]) for feature in features], np.int32),
        boxes_yxyx=np.array(boxes, np.int32).reshape(-1, 4),
        centroids=np.array(centroids, np.float64).reshape(-1, 2),
        contour_points=np.concatenate([np.zeros((0, 2), np.int32), *contours]),
        contour_starts=np.cumsum([0, *map(len, contours)]).astype(np.int64),
        types=np.array(types, np.int32) if names else None,
    )
