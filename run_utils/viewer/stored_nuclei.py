"""The nuclei of a store as the page asks for them: how many, where, and the contours of one cell of the slide."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from models.nuclei import Nuclei, NucleusType
from run_utils.outputs.measures import measure
from run_utils.outputs.result import PackedLabels, Part
from run_utils.outputs.rings import fill_contour
from run_utils.outputs.store import SELECT_ROWS, open_store, polygon_points, read_slide, table_of_rows

# level-0 pixels a side, of the squares that contours are sent in; centroids: times a power of two
CELL = 1024
CONTOUR_STEPS = 4  # to a level-0 pixel, of contours that are sent
MAX_DOTS = 65_536  # centroids in one answer; of more, evenly many are left out
MAX_GRID = 512  # cells a side of the density
NO_TYPES = (NucleusType("nucleus", (0, 190, 255)),)
POINT_BYTES = 16

Shape = tuple[int, int]
Box = tuple[int, int, int, int]

CONTOURS_QUERY = """
SELECT nuclei.id, nuclei.geometry, json_extract(nuclei.properties, '$.type_index'),
    json_extract(nuclei.properties, '$.prob')
FROM rtree JOIN annotations AS nuclei ON nuclei.id = rtree.id
WHERE max_y > ? AND max_x > ? AND min_y < ? AND min_x < ?
"""


class StoredNuclei:
    """A store, open for reading. Held in memory: every centroid and type, 9 bytes a nucleus."""

    def __init__(self, path: Path):
        """Open a store and read its centroids.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a store that ``outputs=[store]`` wrote.
            OSError: a store that is damaged, as for whatever is asked of it later.
        """
        self._path = path
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        with self._connection() as connection:
            self.name, shape, self.facts = read_slide(connection, path)
            points, types = _read_centroids(connection)
        self.types = self.facts.types or NO_TYPES
        self.shape_level0 = tuple(round(side * self.facts.level0_scale) for side in shape)
        self._num_cells = tuple(-(-max(side, 1) // CELL) for side in self.shape_level0)
        cells = np.clip(points.astype(np.int64) // CELL, 0, np.array(self._num_cells) - 1)
        cell = cells[:, 0] * self._num_cells[1] + cells[:, 1]
        order = np.argsort(cell, kind="stable")
        self._points, self._types = points[order], types[order]
        self._starts = np.searchsorted(cell[order], np.arange(np.prod(self._num_cells) + 1))

    def __len__(self) -> int:
        return len(self._types)

    @property
    def mpp_level0(self) -> float | None:
        """µm to a level-0 pixel, or None where unknown."""
        return None if self.facts.mpp is None else self.facts.mpp / self.facts.level0_scale

    def counts(self, box_level0: Box | None = None) -> list[int]:
        """Return how many nuclei of each type have their centroid in a half-open box, or on the whole slide."""
        types = self._types
        if box_level0 is not None:
            rows = self._rows(box_level0)
            points = self._points[rows]
            is_inside = np.all((points >= box_level0[:2]) & (points < box_level0[2:]), axis=1)
            types = types[rows][is_inside]
        return np.bincount(types, minlength=len(self.types)).tolist()

    def density(self) -> tuple[int, np.ndarray]:
        """Return how many nuclei of each type each cell of the slide has.

        Returns:
            The cells' side, level-0 pixels, and (T, h, w) uint16, at most 512 a side.
        """
        side = 16
        while max(self.shape_level0) > side * MAX_GRID:
            side *= 2
        height, width = (-(-max(length, 1) // side) for length in self.shape_level0)
        cells = np.clip(self._points.astype(np.int64) // side, 0, (height - 1, width - 1))
        flat = (self._types.astype(np.int64) * height + cells[:, 0]) * width + cells[:, 1]
        counts = np.bincount(flat, minlength=len(self.types) * height * width)
        return side, np.minimum(counts, 65_535).astype("<u2").reshape(-1, height, width)

    def dots(self, level: int, column: int, row: int) -> bytes:
        """Return the centroids in a cell of ``CELL * 2**level`` level-0 pixels a side.

        Returns:
            uint32 number n; n uint16 x, n uint16 y, each in 65,536ths of the cell; n uint8 types.
        """
        side = CELL << level
        corner = (row * side, column * side)
        self._check_cell(corner)
        rows = self._rows((*corner, corner[0] + side, corner[1] + side))
        rows = rows[:: -(-len(rows) // MAX_DOTS) or 1]
        places = np.clip((self._points[rows] - corner) * (65_536 / side), 0, 65_535).astype("<u2")
        header = np.array([len(rows)], "<u4").tobytes()
        return header + places[:, 1].tobytes() + places[:, 0].tobytes() + self._types[rows].tobytes()

    def contours(self, column: int, row: int) -> bytes:
        """Return the contours that reach into a cell of ``CELL`` level-0 pixels a side.

        Returns:
            uint32 number n and number of points p; n uint32 ids; n + 1 uint32, the point that each contour starts
            at; p times int16 (x, y), quarters of a level-0 pixel from the cell's corner; n uint8 types; n uint8
            shares of pixels that voted for the type, 255 for all.
        """
        top, left = row * CELL, column * CELL
        self._check_cell((top, left))
        with self._connection() as connection:
            found = connection.execute(CONTOURS_QUERY, (top, left, top + CELL, left + CELL)).fetchall()
            rings = [polygon_points(geometry) for _, geometry, _, _ in found]
        points = np.frombuffer(b"".join(rings), "<f8").reshape(-1, 2)
        places = np.clip(np.rint((points - (left, top)) * CONTOUR_STEPS), -32_768, 32_767).astype("<i2")
        starts = np.cumsum([0, *(len(ring) // POINT_BYTES for ring in rings)]).astype("<u4")
        shares = [round(255 * (1.0 if share is None else share)) for *_, share in found]
        columns = (
            np.array([len(found), len(points)], "<u4"),
            np.array([key for key, *_ in found], "<u4"),
            starts,
            places,
            np.array([kind or 0 for _, _, kind, _ in found], np.uint8),
            np.array(shares, np.uint8),
        )
        return b"".join(column.tobytes() for column in columns)

    def measures(self, nucleus: int) -> dict[str, Any]:
        """Return what is known of a nucleus, in µm, or in working pixels where µm/px is unknown.

        A store holds outlines: holes count as part of the nucleus, but in an area in µm², which it holds as well.

        Raises:
            LookupError: no nucleus has this id.
        """
        with self._connection() as connection:
            rows = connection.execute(f"{SELECT_ROWS} WHERE id = ?", (nucleus,)).fetchall()
            table = table_of_rows(rows, self.facts)
        if not rows:
            raise LookupError(f"no nucleus {nucleus}")
        _, y, x, _, properties = rows[0]
        stored_area = json.loads(properties).get("area_um2")
        shares, probabilities = table.type_shares, table.type_probabilities
        return {
            "id": nucleus,
            "type": 0 if table.types is None else int(table.types[0]),
            "share": None if shares is None else float(shares[0]),
            "probabilities": None if probabilities is None else probabilities[0].tolist(),
            "centroid_xy_level0": [x, y],
            "unit": "px" if self.facts.mpp is None else "µm",
            **_shape_measures(table, self.facts.mpp or 1.0),
            **({} if stored_area is None else {"area": stored_area}),
        }

    def close(self) -> None:
        """Close the file; no thread may be reading."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that no other thread uses; what is read from it may turn out to be damaged."""
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = open_store(self._path)
        try:
            yield connection
        except (sqlite3.Error, zlib.error, json.JSONDecodeError) as error:
            connection.close()
            raise OSError(
                f"{self._path} cannot be read: {error}; copy it again, or write it again with outputs=[store]"
            ) from error
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)

    def _check_cell(self, corner_level0: Shape) -> None:
        if any(start >= max(side, 1) for start, side in zip(corner_level0, self.shape_level0, strict=True)):
            raise LookupError(f"no cell at {corner_level0} level-0 pixels on a slide of {self.shape_level0}")

    def _rows(self, box_level0: Box) -> np.ndarray:
        """Return the rows of the nuclei in the cells that a box touches."""
        rows, columns = self._num_cells
        top, left = max(0, box_level0[0] // CELL), max(0, box_level0[1] // CELL)
        bottom, right = min(rows, -(-box_level0[2] // CELL)), min(columns, -(-box_level0[3] // CELL))
        spans = [
            np.arange(self._starts[row * columns + left], self._starts[row * columns + right])
            for row in range(top, bottom)
            if left < right
        ]
        return np.concatenate([np.zeros(0, np.int64), *spans])


def _read_centroids(connection: sqlite3.Connection) -> tuple[np.ndarray, np.ndarray]:
    """Return (K, 2) float32 (y, x) level-0 centroids and (K,) uint8 types, 0 without types."""
    query = "SELECT cy, cx, ifnull(json_extract(properties, '$.type_index'), 0) FROM annotations"
    rows = np.fromiter(connection.execute(query), np.dtype([("y", "f4"), ("x", "f4"), ("type", "u1")]))
    return np.stack([rows["y"], rows["x"]], axis=1), np.ascontiguousarray(rows["type"])


def _shape_measures(nucleus: Nuclei, unit: float) -> dict[str, float]:
    """Return the measures of a table of one nucleus, ``unit`` µm to a working pixel."""
    mask, corner = fill_contour(nucleus.contour(0))
    shapes = measure(Part(nucleus, PackedLabels.pack(mask.astype(np.int32), corner), 0))
    return {
        "area": float(shapes.area[0]) * unit**2,
        "perimeter": float(shapes.perimeter[0]) * unit,
        "major_axis": float(shapes.major_axis[0]) * unit,
        "minor_axis": float(shapes.minor_axis[0]) * unit,
        "eccentricity": float(shapes.eccentricity[0]),
        "solidity": float(shapes.solidity[0]),
        "circularity": float(shapes.circularity[0]),
    }
