"""MATLAB file, with the reference's names: the label map and each nucleus's id, type and centroid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import loadmat, savemat
from scipy.ndimage import find_objects

from models.nuclei import Nuclei
from run_utils.outputs.result import SlideResult, StoredResult
from run_utils.outputs.rings import trace_contour


def write(result: SlideResult, path: Path) -> None:
    """Write ``inst_map`` (H, W) int32, ``inst_uid`` (K, 1) and ``inst_centroid`` (K, 2), (x, y) in pixels.

    ``inst_type`` (K, 1) is there where the nuclei have types, ``mpp`` where it is known; ``level0_scale``
    always.
    """
    nuclei = result.whole_nuclei()
    content = {
        "inst_map": result.whole_label_map(),
        "inst_uid": nuclei.ids[:, None],
        "inst_centroid": nuclei.centroids[:, ::-1],
        "level0_scale": result.level0_scale,
    }
    if nuclei.types is not None:
        content["inst_type"] = nuclei.types[:, None]
    if result.mpp is not None:
        content["mpp"] = result.mpp
    with path.open("wb") as file:
        savemat(file, content, do_compression=True)


def read(path: Path) -> StoredResult:
    """Read what ``write`` wrote; boxes and contours come from the label map."""
    content = loadmat(path)
    label_map = content["inst_map"].astype(np.int32)
    ids = content["inst_uid"].astype(np.int32).ravel()
    types = content.get("inst_type")
    return StoredResult(
        nuclei=_table(
            label_map,
            ids,
            content["inst_centroid"].reshape(len(ids), 2)[:, ::-1].astype(np.float64),
            None if types is None else types.astype(np.int32).ravel(),
        ),
        label_map=label_map,
        mpp=float(content["mpp"].item()) if "mpp" in content else None,
        level0_scale=float(content["level0_scale"].item()) if "level0_scale" in content else None,
    )


def _table(label_map: np.ndarray, ids: np.ndarray, centroids: np.ndarray, types: np.ndarray | None) -> Nuclei:
    """Return the table of ``ids``, outlined in the label map."""
    slices = find_objects(label_map)
    boxes, contours = [], []
    for nucleus in ids.tolist():
        rows, columns = slices[nucleus - 1]
        boxes.append((rows.start, columns.start, rows.stop, columns.stop))
        contours.append(trace_contour(label_map[rows, columns] == nucleus) + (rows.start, columns.start))
    return Nuclei(
        ids=ids,
        boxes_yxyx=np.array(boxes, np.int32).reshape(-1, 4),
        centroids=centroids,
        contour_points=np.concatenate([np.zeros((0, 2), np.int32), *contours]).astype(np.int32),
        contour_starts=np.cumsum([0, *map(len, contours)]).astype(np.int64),
        types=types,
    )
