"""GeoParquet: a row a nucleus with its polygon, type and shape, for tables, maps and machine learning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from models.nuclei import Nuclei
from run_utils.outputs.facts import Facts
from run_utils.outputs.measures import measure
from run_utils.outputs.result import Part, SlideResult, StoredResult
from run_utils.outputs.rings import Outlines, contours_of_rings, rings_of

FACTS = b"hovernet"  # key of the file's metadata
GEO = b"geo"  # the same, of GeoParquet
ROWS = 2**15  # nuclei held back until they are a row group: some 40 MB
BOUNDS = ("xmin", "ymin", "xmax", "ymax")
LENGTHS_UM = ("perimeter", "major_axis", "minor_axis")
RATIOS = ("eccentricity", "solidity", "circularity")


def write(result: SlideResult, path: Path) -> None:
    """Write GeoParquet 1.1, part by part, a row group for every ``ROWS`` nuclei.

    Columns: ``id`` int32; ``geometry``, a polygon in well-known binary; ``bbox`` {xmin, ymin, xmax, ymax} of all
    pixels; ``centroid_x``, ``centroid_y``; ``type`` int32 and ``type_name``; ``type_share``, the share of the
    pixels that voted for the type; ``probability_<type name>`` for each type; ``area_um2`` and the lengths,
    ratios and ``orientation_rad`` of ``measure``. Types are null without types, areas and lengths without µm/px.

    Positions are level-0 pixels in which polygons run along pixel edges: working pixel (y, x) covers [x, x + 1)
    x [y, y + 1), times ``level0_scale``. So a centroid, the mean of pixel indices, is there (mean + 0.5) times
    ``level0_scale``. The file's metadata ``hovernet`` (JSON) has ``level0_scale``, ``mpp`` and the types.
    """
    facts = Facts.of(result)
    schema = _schema(facts)
    pending: list[pa.RecordBatch] = []
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    plain = [name for name in schema.names if name not in ("geometry", "bbox")]
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=["type_name"],
        write_statistics=[*plain, *(f"bbox.{bound}" for bound in BOUNDS)],
    ) as writer:
        for part in result.parts():
            if not len(part.nuclei):
                continue
            pending.append(_batch(part, facts, schema))
            low = np.minimum(low, part.nuclei.boxes_yxyx[:, 1::-1].min(0) * facts.level0_scale)
            high = np.maximum(high, part.nuclei.boxes_yxyx[:, :1:-1].max(0) * facts.level0_scale)
            if sum(map(len, pending)) >= ROWS:
                _flush(writer, pending)
        _flush(writer, pending)
        bounds = [*low, *high] if np.isfinite(low).all() else None
        writer.add_key_value_metadata({GEO: json.dumps(_geo(bounds)), FACTS: json.dumps(facts.to_dict())})


def read(path: Path) -> StoredResult:
    """Read what ``write`` wrote; contours are those of the polygons' pixels.

    Raises:
        ValueError: a Parquet file that was not written here.
    """
    with pq.ParquetFile(path) as file:
        metadata, table = file.metadata.metadata or {}, file.read()
    if FACTS not in metadata:
        raise ValueError(f"{path} has no metadata {FACTS.decode()!r}; only what inference wrote can be read")
    facts = Facts.parse(json.loads(metadata[FACTS]))
    return StoredResult(
        nuclei=_table(table, facts),
        mpp=facts.mpp,
        level0_scale=facts.level0_scale,
        types=facts.types,
    )


def _probability_names(facts: Facts) -> list[str]:
    return [f"probability_{name}" for name in facts.unique_names()]


def _schema(facts: Facts) -> pa.Schema:
    shapes = ["area_um2", *(f"{name}_um" for name in LENGTHS_UM), *RATIOS, "orientation_rad"]
    return pa.schema(
        [
            pa.field("id", pa.int32(), nullable=False),
            pa.field("geometry", pa.binary(), nullable=False),
            pa.field("bbox", pa.struct([(bound, pa.float64()) for bound in BOUNDS])),
            pa.field("centroid_x", pa.float64()),
            pa.field("centroid_y", pa.float64()),
            pa.field("type", pa.int32()),
            pa.field("type_name", pa.dictionary(pa.int32(), pa.string())),
            pa.field("type_share", pa.float32()),
            *(pa.field(name, pa.float32()) for name in _probability_names(facts)),
            *(pa.field(name, pa.float32()) for name in shapes),
        ]
    )


def _batch(part: Part, facts: Facts, schema: pa.Schema) -> pa.RecordBatch:
    """Return a part's nuclei as rows; a column that is not there is null."""
    nuclei, scale = part.nuclei, facts.level0_scale
    columns = {
        "id": nuclei.ids,
        "geometry": _polygons(nuclei, scale),
        "bbox": pa.StructArray.from_arrays(list(nuclei.boxes_yxyx[:, [1, 0, 3, 2]].T * scale), list(BOUNDS)),
        "centroid_x": (nuclei.centroids[:, 1] + 0.5) * scale,
        "centroid_y": (nuclei.centroids[:, 0] + 0.5) * scale,
        "type": nuclei.types,
        "type_share": nuclei.type_shares,
        **_shapes(part, facts.mpp),
    }
    if nuclei.types is not None:
        names = pa.array([kind.name for kind in facts.types or ()], pa.string())
        columns["type_name"] = pa.DictionaryArray.from_arrays(nuclei.types, names)
    if nuclei.type_probabilities is not None:
        columns.update(zip(_probability_names(facts), nuclei.type_probabilities.T, strict=True))
    arrays = []
    for field in schema:
        column = columns.get(field.name)
        is_null = column is None
        arrays.append(pa.nulls(len(nuclei), field.type) if is_null else pa.array(column, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _polygons(nuclei: Nuclei, scale: float) -> np.ndarray:
    """Return (K,) polygons in well-known binary, (x, y) in level-0 pixels."""
    points, starts = rings_of(nuclei)
    rows = np.repeat(np.arange(len(nuclei)), np.diff(starts))
    rings = shapely.linearrings(points[:, ::-1] * scale, indices=rows)
    return np.asarray(shapely.to_wkb(shapely.polygons(rings), byte_order=1), object)


def _shapes(part: Part, mpp: float | None) -> dict[str, np.ndarray]:
    """Return the columns of ``measure``, without those in µm where µm/px is unknown."""
    shapes = measure(part)._asdict()
    columns = {name: shapes[name] for name in RATIOS}
    columns["orientation_rad"] = shapes["orientation"]
    if mpp is not None:
        columns["area_um2"] = shapes["area"] * mpp**2
        columns.update((f"{name}_um", shapes[name] * mpp) for name in LENGTHS_UM)
    return {name: column.astype(np.float32) for name, column in columns.items()}


def _flush(writer: pq.ParquetWriter, pending: list[pa.RecordBatch]) -> None:
    """Write the pending rows as one row group and forget them."""
    if pending:
        table = pa.Table.from_batches(pending)
        pending.clear()
        writer.write_table(table, row_group_size=len(table))


def _geo(bounds: list[float] | None) -> dict[str, object]:
    """Return the metadata of GeoParquet 1.1; a slide's pixels have no reference system on Earth."""
    column: dict[str, object] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": None,
        "edges": "planar",
        "orientation": "counterclockwise",
        "covering": {"bbox": {bound: ["bbox", bound] for bound in BOUNDS}},
    }
    if bounds is not None:
        column["bbox"] = bounds
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _table(table: pa.Table, facts: Facts) -> Nuclei:
    """Return the rows as a table in working-resolution pixels."""
    if not len(table):
        return Nuclei.empty()
    scale = facts.level0_scale
    points, rows = shapely.get_coordinates(shapely.from_wkb(table["geometry"].to_numpy()), return_index=True)
    starts = np.searchsorted(rows, np.arange(len(table) + 1))
    contours = contours_of_rings(Outlines(np.rint(points[:, ::-1] / scale).astype(np.int64), starts))
    bounds = table.select(["bbox"]).flatten()
    boxes = [bounds[f"bbox.{BOUNDS[index]}"].to_numpy() for index in (1, 0, 3, 2)]
    centroids = [table[name].to_numpy() / scale - 0.5 for name in ("centroid_y", "centroid_x")]
    probabilities = [_column(table, name) for name in _probability_names(facts)]
    known = [column for column in probabilities if column is not None]
    return Nuclei(
        ids=table["id"].to_numpy(),
        boxes_yxyx=np.rint(np.stack(boxes, axis=1) / scale).astype(np.int32),
        centroids=np.stack(centroids, axis=1),
        contour_points=contours.points,
        contour_starts=contours.starts,
        types=_column(table, "type"),
        type_shares=_column(table, "type_share"),
        type_probabilities=np.stack(known, axis=1) if known else None,
    )


def _column(table: pa.Table, name: str) -> np.ndarray | None:
    """Return a column, None where it is null."""
    return None if table[name].null_count else np.asarray(table[name].to_numpy())
