"""GeoJSON: each nucleus a QuPath detection, in level-0 pixels, as QuPath places it; plain, and compressed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import orjson

from dataloader.annotations.qupath import load_json
from models.nuclei import Nuclei
from run_utils.outputs.facts import Facts
from run_utils.outputs.measures import measure
from run_utils.outputs.result import Part, SlideResult, StoredResult
from run_utils.outputs.rings import Outlines, centroids_of_rings, contours_of_rings, rings_of

FACTS = "hovernet"  # GeoJSON lets a collection carry members of its own (RFC 7946, 6.1)
DIGITS = 3  # of a level-0 pixel
# of gzip: 1 takes 3 µs a nucleus less and 19 % more bytes, 6 takes 30 µs more for 16 % fewer
COMPRESSION_LEVEL = 4
BUFFER_BYTES = 2**18


def write(result: SlideResult, path: Path) -> None:
    """Write a FeatureCollection of closed polygons, (x, y) in level-0 pixels, part by part, a line a nucleus.

    A polygon runs along its pixels' edges: working pixel (y, x) covers [x, x + 1) x [y, y + 1), times
    ``level0_scale``, as QuPath counts. An object's name is the nucleus's id. Its measurements are those of
    ``measure`` (in µm, where µm/px is known), the share of pixels that voted for the type, and each type's
    probability. The text is ASCII: older QuPath reads a file in the machine's own encoding.
    """
    with path.open("wb", buffering=BUFFER_BYTES) as file:
        _write_collection(result, file)


def write_compressed(result: SlideResult, path: Path) -> None:
    """Write the same, compressed with gzip, which QuPath 0.6 reads as ``.geojson.gz``; the bytes hold no date."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", COMPRESSION_LEVEL, raw, mtime=0) as packed,
        BufferedWriter(cast(Any, packed), BUFFER_BYTES) as file,
    ):
        _write_collection(result, file)


def read(path: Path) -> StoredResult:
    """Read what either wrote; boxes, centroids and contours are those of the polygons' pixels, holes filled.

    Raises:
        ValueError: a GeoJSON that was not written here.
    """
    content = load_json(path)
    if FACTS not in content:
        raise ValueError(f"{path} has no member {FACTS!r}; only GeoJSON that inference wrote can be read")
    facts = Facts.parse(content[FACTS])
    return StoredResult(
        nuclei=_table(content["features"], facts),
        mpp=facts.mpp,
        level0_scale=facts.level0_scale,
        types=facts.types,
    )


def _write_collection(result: SlideResult, file: BinaryIO) -> None:
    facts = Facts.of(result)
    file.write(b'{"type":"FeatureCollection",%s:%s,' % (_ascii(FACTS), _ascii(facts.to_dict())))
    file.write(b'"features":[\n')
    separator = b""
    for part in result.parts():
        for feature in _features(part, facts):
            file.write(separator + feature)
            separator = b",\n"
    file.write(b"\n]}\n")


def _ascii(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def _features(part: Part, facts: Facts) -> Iterator[bytes]:
    """Yield each nucleus of a part as a GeoJSON feature with the properties that QuPath reads."""
    nuclei = part.nuclei
    rings = rings_of(nuclei)
    points, starts = _scaled(rings.points[:, ::-1], facts.level0_scale), rings.starts.tolist()
    classes = [b""] * len(nuclei)
    if nuclei.types is not None:
        known = [
            b',"classification":' + _ascii({"name": name, "color": kind.colour})
            for name, kind in zip(facts.unique_names(), facts.types or (), strict=True)
        ]
        classes = [known[kind] for kind in nuclei.types.tolist()]
    figures = _figures(part, facts)
    text = b",".join(_ascii(name).replace(b"%", b"%%") + b":%.7g" for name in figures)
    template = b'{"objectType":"detection","name":"%d"%b,"measurements":{' + text + b"}}"
    rows = zip(nuclei.ids.tolist(), classes, *(figure.tolist() for figure in figures.values()), strict=True)
    for row, values in enumerate(rows):
        ring = orjson.dumps(points[starts[row] : starts[row + 1]], option=orjson.OPT_SERIALIZE_NUMPY)
        yield b'{"type":"Feature","geometry":{"type":"Polygon","coordinates":[%b]},"properties":%b}' % (
            ring,
            template % values,
        )


def _scaled(points: np.ndarray, scale: float) -> np.ndarray:
    """Return positions in level-0 pixels, as integers where they are whole: half the text."""
    if scale == int(scale):
        return np.ascontiguousarray(points * int(scale))
    return np.round(np.ascontiguousarray(points) * scale, DIGITS)


def _figures(part: Part, facts: Facts) -> dict[str, np.ndarray]:
    """Return (K,) figures of the nuclei under the names that QuPath's tables show."""
    shapes = measure(part)
    figures = {}
    if facts.mpp is not None:
        figures["Area µm^2"] = shapes.area * facts.mpp**2
        figures["Perimeter µm"] = shapes.perimeter * facts.mpp
        figures["Major axis µm"] = shapes.major_axis * facts.mpp
        figures["Minor axis µm"] = shapes.minor_axis * facts.mpp
    figures["Eccentricity"] = shapes.eccentricity
    figures["Solidity"] = shapes.solidity
    figures["Circularity"] = shapes.circularity
    if part.nuclei.type_shares is not None:
        figures["Type share"] = part.nuclei.type_shares
    if part.nuclei.type_probabilities is not None:
        columns = zip(facts.unique_names(), part.nuclei.type_probabilities.T, strict=True)
        figures.update((f"Probability: {name}", column) for name, column in columns)
    return figures


def _table(features: list[dict[str, Any]], facts: Facts) -> Nuclei:
    """Return the features as a table in working-resolution pixels."""
    if not features:
        return Nuclei.empty()
    polygons = [feature["geometry"]["coordinates"][0] for feature in features]
    points = np.array([point for polygon in polygons for point in polygon], np.float64)[:, ::-1]
    starts = np.cumsum([0, *map(len, polygons)]).astype(np.int64)
    rings = Outlines(np.rint(points / facts.level0_scale).astype(np.int64), starts)
    contours = contours_of_rings(rings)
    properties = [feature["properties"] for feature in features]
    numbers = {name: number for number, name in enumerate(facts.unique_names())}
    has_types = "classification" in properties[0]
    low, high = (bound.reduceat(rings.points, starts[:-1]) for bound in (np.minimum, np.maximum))
    return Nuclei(
        ids=np.array([int(entry["name"]) for entry in properties], np.int32),
        boxes_yxyx=np.hstack([low, high]).astype(np.int32),
        centroids=centroids_of_rings(rings),
        contour_points=contours.points,
        contour_starts=contours.starts,
        types=np.array([numbers[entry["classification"]["name"]] for entry in properties], np.int32)
        if has_types
        else None,
    )
