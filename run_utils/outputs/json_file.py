"""JSON, in the reference's schema: one entry a nucleus under its id; positions are (x, y) working pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from models.nuclei import Nuclei, NucleusType
from run_utils.outputs.result import ImageResult, StoredResult

MAGNIFICATION_TIMES_MPP = 10.0  # 0.25 µm/px is what a scanner calls 40x


def write(result: ImageResult, path: Path) -> None:
    """Write ``{"mag", "mpp", "level0_scale", "types", "nuc": {id: nucleus}}``.

    A nucleus has ``bbox`` [[row, column], [row, column]] (half-open), ``centroid`` [x, y], ``contour`` [[x,
    y], …] (not closed), ``type`` and ``type_prob`` (the share of its pixels that voted for the type), null
    without types, and ``type_probabilities``, one for each type. ``mag`` is the nominal magnification, null
    where ``mpp`` is.
    """
    nuclei = result.nuclei
    content = {
        "mag": None if result.mpp is None else round(MAGNIFICATION_TIMES_MPP / result.mpp),
        "mpp": result.mpp,
        "level0_scale": result.level0_scale,
        "types": None if result.types is None else [[kind.name, list(kind.colour)] for kind in result.types],
        "nuc": {str(nuclei.ids[row]): _entry(nuclei, row) for row in range(len(nuclei))},
    }
    path.write_text(json.dumps(content, separators=(",", ":"), allow_nan=False), encoding="utf-8")


def read(path: Path) -> StoredResult:
    """Read what ``write`` wrote, or a JSON of the reference; without types where no nucleus has one."""
    content = json.loads(path.read_text(encoding="utf-8"))
    types = content.get("types")
    return StoredResult(
        nuclei=_table(content["nuc"], None if types is None else len(types)),
        mpp=content.get("mpp"),
        level0_scale=content.get("level0_scale"),
        types=None
        if types is None
        else tuple(NucleusType(name, (colour[0], colour[1], colour[2])) for name, colour in types),
    )


def _entry(nuclei: Nuclei, row: int) -> dict[str, Any]:
    """Return one nucleus as plain values."""
    top, left, bottom, right = nuclei.boxes_yxyx[row].tolist()
    shares, probabilities = nuclei.type_shares, nuclei.type_probabilities
    entry = {
        "bbox": [[top, left], [bottom, right]],
        "centroid": nuclei.centroids[row, ::-1].tolist(),
        "contour": nuclei.contour(row)[:, ::-1].tolist(),
        "type_prob": None if shares is None else _rounded(shares[row]),
        "type": None if nuclei.types is None else int(nuclei.types[row]),
    }
    if probabilities is not None:
        entry["type_probabilities"] = [_rounded(value) for value in probabilities[row]]
    return entry


def _rounded(probability: np.floating) -> float:
    """Return a probability with the digits that float32 has to give."""
    return round(float(probability), 6)


def _table(entries: dict[str, dict[str, Any]], num_types: int | None) -> Nuclei:
    """Return the entries as a table, in the file's order."""
    if not entries:
        return Nuclei.empty(num_types)
    rows = list(entries.values())
    contours = [np.array(row["contour"], np.int32).reshape(-1, 2)[:, ::-1] for row in rows]
    return Nuclei(
        ids=np.array([int(key) for key in entries], np.int32),
        boxes_yxyx=np.array([row["bbox"] for row in rows], np.int32).reshape(-1, 4),
        centroids=np.array([row["centroid"] for row in rows], np.float64)[:, ::-1],
        contour_points=np.concatenate(contours),
        contour_starts=np.cumsum([0, *map(len, contours)]).astype(np.int64),
        types=_column(rows, "type", np.int32),
        type_shares=_column(rows, "type_prob", np.float32),
        type_probabilities=_column(rows, "type_probabilities", np.float32),
    )


def _column(rows: list[dict[str, Any]], key: str, dtype: type) -> np.ndarray | None:
    """Return one value of each row as an array, None where any row lacks it."""
    values = [row.get(key) for row in rows]
    return None if any(value is None for value in values) else np.array(values, dtype)
