"""SQLite in the layout of TIAToolbox's annotation store: polygons asked for by place; what the viewer shows."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from models.nuclei import Nuclei
from run_utils.outputs.facts import Facts
from run_utils.outputs.result import SlideResult, StoredResult
from run_utils.outputs.rings import Outlines, contours_of_rings, rings_of, signed_areas

FACTS = "hovernet"  # our row of the metadata, beside those of the layout
COMPRESSION_LEVEL = 1  # of zlib: 6 saves 14 % of the polygons' bytes and takes half as long again
BATCH = 4096  # nuclei made into rows at once, so that memory does not grow with a part
STEPS = 256  # to a level-0 pixel: coordinates with few bits set compress well
DIGITS = 6  # of probabilities and areas
POLYGON_HEADER = struct.Struct("<BIII")  # well-known binary: little-endian, polygon, one ring, its points
POINT_BYTES = 16  # two float64
SELECT_ROWS = "SELECT id, cy, cx, geometry, properties FROM annotations"
PROBABILITY_KEY = "probability_{}"  # of a type in a nucleus's properties

LAYOUT = {"version": "1.0.1", "compression": "zlib", "compression_level": COMPRESSION_LEVEL}
"""Rows of the metadata that an annotation store has; TIAToolbox 2.1.3 writes and reads this version."""

TABLES = (
    "CREATE TABLE metadata (key TEXT UNIQUE, value TEXT)",
    "CREATE VIRTUAL TABLE rtree USING rtree(id, min_x, max_x, min_y, max_y)",
    "CREATE TABLE annotations (id INTEGER PRIMARY KEY, key TEXT UNIQUE, objtype TEXT, cx FLOAT NOT NULL, "
    "cy FLOAT NOT NULL, geometry BLOB, properties TEXT, area FLOAT NOT NULL)",
)
WHILE_WRITING = (  # the file has a temporary name: one that breaks off is thrown away
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA cache_size = -32768",  # KiB; changed pages beyond it go to the file
)


class StoredSlide(NamedTuple):
    """What a store says of its slide.

    Attributes:
        name: of the slide, without extension.
        shape: (H, W) at the working resolution.
        facts: scales and types.
    """

    name: str
    shape: tuple[int, int]
    facts: Facts


def write(result: SlideResult, path: Path) -> None:
    """Write each nucleus as a row: closed polygon in (x, y) level-0 pixels, properties and R-tree box.

    Polygons run along their pixels' edges: working pixel (y, x) covers [x, x + 1) x [y, y + 1), times
    ``level0_scale``. A row's id is the nucleus's and its key the same as text; ``cx, cy`` is the centroid. The
    properties are ``id``, ``type`` (its name), ``type_index``, ``prob`` (the share of pixels that voted for
    it), ``probability_NAME`` of every type, and ``area_um2``, of its pixels (holes left out, as ``measure`` does),
    where µm/px is known. A file that is there is replaced.

    Raises:
        OSError: the file cannot be written; ``errno`` is ``ENOSPC`` where the disk is full.
    """
    path.unlink(missing_ok=True)  # of a run that was killed
    try:
        _write_database(result, path)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise OSError(f"{path} cannot be written: {error}; check its folder and its disk") from error


def _write_database(result: SlideResult, path: Path) -> None:
    facts = Facts.of(result)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (*WHILE_WRITING, *TABLES, "BEGIN"):
            connection.execute(statement)
        for part in result.parts():
            num_nuclei = len(part.nuclei)
            num_pixels = np.bincount(part.labels.unpack().ravel(), minlength=num_nuclei + 1)[1:]
            for first in range(0, num_nuclei, BATCH):
                rows = np.arange(first, min(first + BATCH, num_nuclei))
                _insert(connection, part.nuclei.select(rows), num_pixels[rows], facts)
        slide = {"name": result.name, "shape": result.shape, **facts.to_dict()}
        metadata = {**LAYOUT, FACTS: slide}
        connection.executemany(
            "INSERT INTO metadata VALUES (?, ?)",
            [(key, json.dumps(value)) for key, value in metadata.items()],
        )
        connection.execute("COMMIT")


def read(path: Path) -> StoredResult:
    """Read what ``write`` wrote; boxes and contours are those of the polygons' pixels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a store, or not one of ours.
    """
    with closing(open_store(path)) as connection:
        facts = read_slide(connection, path).facts
        rows = connection.execute(f"{SELECT_ROWS} ORDER BY id").fetchall()
    return StoredResult(
        nuclei=table_of_rows(rows, facts),
        mpp=facts.mpp,
        level0_scale=facts.level0_scale,
        types=facts.types,
    )


def open_store(path: Path) -> sqlite3.Connection:
    """Open a store for reading only; its connection may move from thread to thread.

    Raises:
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; write it with outputs=[store]")
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)


def read_slide(connection: sqlite3.Connection, path: Path) -> StoredSlide:
    """Return what a store says of its slide.

    Raises:
        ValueError: the file is no SQLite file, lacks the layout's tables or our row of the metadata.
    """
    try:
        row = connection.execute("SELECT value FROM metadata WHERE key = ?", (FACTS,)).fetchone()
        connection.execute("SELECT id, cx, cy, geometry, properties FROM annotations LIMIT 0")
        connection.execute("SELECT id, min_x, max_x, min_y, max_y FROM rtree LIMIT 0")
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{path} is not a store of nuclei ({error}); give a .db file that outputs=[store] wrote"
        ) from error
    if row is None:
        raise ValueError(
            f"{path} is an annotation store of another program: it does not say which types and slide it is "
            "of; give a .db file that outputs=[store] wrote"
        )
    values = json.loads(row[0])
    return StoredSlide(values["name"], tuple(values["shape"]), Facts.parse(values))


def polygon_points(geometry: bytes) -> bytes:
    """Return the points of a row's polygon: (V + 1, 2) little-endian float64 (x, y), closed."""
    return zlib.decompress(geometry)[POLYGON_HEADER.size :]


def _insert(connection: sqlite3.Connection, nuclei: Nuclei, num_pixels: np.ndarray, facts: Facts) -> None:
    """Insert nuclei, one at least, of (K,) ``num_pixels`` each, and their boxes; ``area`` is the polygon's."""
    rings = rings_of(nuclei)
    level0 = np.round(rings.points[:, ::-1] * (facts.level0_scale * STEPS)) / STEPS  # (x, y)
    low, high = (bound.reduceat(level0, rings.starts[:-1]) for bound in (np.minimum, np.maximum))
    boxes = np.stack([nuclei.ids, low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
    centroids = (nuclei.centroids + 0.5) * facts.level0_scale
    columns = zip(
        nuclei.ids.tolist(),
        centroids.tolist(),
        _polygons(level0, rings.starts),
        _properties(nuclei, num_pixels, facts),
        (np.abs(signed_areas(rings)) * facts.level0_scale**2).tolist(),
        strict=True,
    )
    connection.executemany(
        "INSERT INTO annotations VALUES (?, ?, 'Polygon', ?, ?, ?, ?, ?)",
        ((key, str(key), x, y, polygon, texts, area) for key, (y, x), polygon, texts, area in columns),
    )
    connection.executemany("INSERT INTO rtree VALUES (?, ?, ?, ?, ?)", boxes.tolist())


def _polygons(points: np.ndarray, starts: np.ndarray) -> Iterator[bytes]:
    """Yield each ring of (P, 2) float64 (x, y) points as compressed well-known binary."""
    data, bounds = points.astype("<f8").tobytes(), starts.tolist()
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        header = POLYGON_HEADER.pack(1, 3, 1, last - first)
        yield zlib.compress(header + data[POINT_BYTES * first : POINT_BYTES * last], COMPRESSION_LEVEL)


def _properties(nuclei: Nuclei, num_pixels: np.ndarray, facts: Facts) -> Iterator[str]:
    """Yield each nucleus's properties as JSON."""
    names = facts.unique_names()
    columns: dict[str, list[Any]] = {"id": nuclei.ids.tolist()}
    if nuclei.types is not None:
        columns["type"] = [names[index] for index in nuclei.types.tolist()]
        columns["type_index"] = nuclei.types.tolist()
    if nuclei.type_shares is not None:
        columns["prob"] = _rounded(nuclei.type_shares)
    if nuclei.type_probabilities is not None:
        for name, probabilities in zip(names, nuclei.type_probabilities.T, strict=True):
            columns[PROBABILITY_KEY.format(name)] = _rounded(probabilities)
    if facts.mpp is not None:
        columns["area_um2"] = _rounded(num_pixels * facts.mpp**2)
    for values in zip(*columns.values(), strict=True):
        yield orjson.dumps(dict(zip(columns, values, strict=True))).decode()


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values.astype(np.float64), DIGITS).tolist()


def table_of_rows(rows: list[tuple], facts: Facts) -> Nuclei:
    """Return what ``SELECT_ROWS`` gives as a table in working-resolution pixels."""
    polygons = [polygon_points(row[3]) for row in rows]
    level0 = np.frombuffer(b"".join(polygons), "<f8").reshape(-1, 2)[:, ::-1]
    starts = np.cumsum([0, *(len(polygon) // POINT_BYTES for polygon in polygons)]).astype(np.int64)
    contours = contours_of_rings(Outlines(np.rint(level0 / facts.level0_scale).astype(np.int64), starts))
    properties = [orjson.loads(row[4]) for row in rows]
    centroids = np.array([row[1:3] for row in rows], np.float64).reshape(-1, 2) / facts.level0_scale - 0.5
    names = [PROBABILITY_KEY.format(name) for name in facts.unique_names()]
    columns = [column for name in names if (column := _column(properties, name, np.float32)) is not None]
    return Nuclei(
        ids=np.array([row[0] for row in rows], np.int32),
        boxes_yxyx=_boxes(contours),
        centroids=centroids,
        contour_points=contours.points,
        contour_starts=contours.starts,
        types=_column(properties, "type_index", np.int32),
        type_shares=_column(properties, "prob", np.float32),
        type_probabilities=np.stack(columns, axis=1) if columns else None,
    )


def _boxes(contours: Outlines) -> np.ndarray:
    """Return the (K, 4) int32 half-open boxes of contours."""
    starts = contours.starts[:-1]
    if not len(starts):
        return np.zeros((0, 4), np.int32)
    low, high = (bound.reduceat(contours.points, starts) for bound in (np.minimum, np.maximum))
    return np.concatenate([low, high + 1], axis=1)


def _column(properties: list[dict[str, Any]], key: str, dtype: type) -> np.ndarray | None:
    """Return one property of every nucleus, None where there are none or one lacks it."""
    values = [entry.get(key) for entry in properties]
    return None if not values or None in values else np.array(values, dtype)
