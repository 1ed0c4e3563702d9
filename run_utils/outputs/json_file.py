"""JSON, in the reference's schema: one entry a nucleus under its id; positions are (x, y) working pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from models.nuclei import Nuclei
from run_utils.outputs.facts import Facts
from run_utils.outputs.result import SlideResult, StoredResult

MAGNIFICATION_TIMES_MPP = 10.0  # 0.25 µm/px is what a scanner calls 40x
PROBABILITY_DIGITS = 6  # what float32 has to give


def write(result: SlideResult, path: Path) -> None:
    """Write ``{"mag", "mpp", "level0_scale", "types", "nuc": {id: nucleus}}``, part by part.

    A nucleus has ``bbox`` [[row, column], [row, column]] (half-open), ``centroid`` [x, y], ``contour`` [[x,
    y], …] (through pixel centres, not closed), ``type`` and ``type_prob`` (the share of its pixels that voted
    for the type), null without types, and ``type_probabilities``, one for each type. Positions are pixels at
    the working resolution, that of ``mpp`` (µm/px); times ``level0_scale`` they are level-0 pixels. ``mag`` is
    the nominal magnification, null where ``mpp`` is.
    """
    facts = Facts(result.mpp, result.level0_scale, result.types).to_dict()
    head = {"mag": None if result.mpp is None else round(MAGNIFICATION_TIMES_MPP / result.mpp), **facts}
    separator = b""
    with path.open("wb") as file:
        file.write(orjson.dumps(head)[:-1] + b',"nuc":{')
        for part in result.parts():
            if len(part.nuclei):
                file.write(separator + b",".join(_entries(part.nuclei)))
                separator = b","
        file.write(b"}}")


def read(path: Path) -> StoredResult:
    """Read what ``write`` wrote, or a JSON of the reference; without types where no nucleus has one."""
    content = orjson.loads(path.read_bytes())
    facts = Facts.parse(content)
    return StoredResult(
        nuclei=_table(content["nuc"]),
        mpp=facts.mpp,
        level0_scale=content.get("level0_scale"),
        types=facts.types,
    )


def _entries(nuclei: Nuclei) -> Iterator[bytes]:
    """Yield ``"id":nucleus`` for each nucleus of a table."""
    centroids = nuclei.centroids[:, ::-1].tolist()
    contour_points = np.ascontiguousarray(nuclei.contour_points[:, ::-1])
    starts = nuclei.contour_starts.tolist()
    types = [None] * len(nuclei) if nuclei.types is None else nuclei.types.tolist()
    shares = [None] * len(nuclei) if nuclei.type_shares is None else _rounded(nuclei.type_shares)
    probabilities = None if nuclei.type_probabilities is None else _rounded(nuclei.type_probabilities)
    for row, (nucleus, box) in enumerate(zip(nuclei.ids.tolist(), nuclei.boxes_yxyx.tolist(), strict=True)):
        entry = {
            "bbox": (box[:2], box[2:]),
            "centroid": centroids[row],
            "contour": contour_points[starts[row] : starts[row + 1]],
            "type_prob": shares[row],
            "type": types[row],
        }
        if probabilities is not None:
            entry["type_probabilities"] = probabilities[row]
        yield b'"%d":%b' % (nucleus, orjson.dumps(entry, option=orjson.OPT_SERIALIZE_NUMPY))


def _rounded(values: np.ndarray) -> list[Any]:
    return np.round(values.astype(np.float64), PROBABILITY_DIGITS).tolist()


def _table(entries: dict[str, dict[str, Any]]) -> Nuclei:
    """Return the entries as a table, in the file's order."""
    if not entries:
        return Nuclei.empty()
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
