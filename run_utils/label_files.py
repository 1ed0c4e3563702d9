"""Reads the true or predicted nuclei of one image from .mat, .npy, .png or .tif: what evaluation compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy.io import loadmat

from dataloader.annotations.base import DAMAGED
from metrics.detection import UNLABELLED
from metrics.overlap import Overlap
from run_utils.image_nuclei import ImageNuclei, check_types

SUFFIXES = (".mat", ".npy", ".tif", ".tiff", ".png")


@dataclass(frozen=True)
class TypedCentroids:
    """Where K nuclei are and what they are.

    Attributes:
        centroids: (K, 2) float64, (y, x) in pixels.
        types: (K,) int64; 0 background, -1 unlabelled.
    """

    centroids: np.ndarray
    types: np.ndarray


def read_label_map(path: str | Path) -> np.ndarray:
    """Read the label map of an image.

    Args:
        path: .mat with ``inst_map``; .npy (H, W), or (H, W, 2), label map first; .png or .tif, one channel.

    Returns:
        (H, W) integer label map, 0 background; whole numbers stored as float are cast.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: for a file that cannot be read as a label map.
    """
    path = Path(path)
    contents = _read(path)
    if "inst_map" not in contents:
        raise ValueError(
            f"{path} has no inst_map but {sorted(contents)}; a label map is needed: save one as inst_map"
        )
    return _label_map(contents, path)


def read_typed_centroids(path: str | Path) -> TypedCentroids:
    """Read where the nuclei of an image are and their types; see ``read_label_file``.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: for a file that cannot be read, holds no types, or whose types cannot be given to nuclei.
    """
    nuclei = read_label_file(path)
    if nuclei.types is None or nuclei.centroids is None:
        raise ValueError(f"{path} holds no types (inst_type or type_map); evaluate it with mode=instance")
    return TypedCentroids(nuclei.centroids, nuclei.types)


def read_label_file(path: str | Path) -> ImageNuclei:
    """Read what a label file holds of an image: its label map, and types and centroids of its nuclei.

    Centroids are computed from the label map; only a .mat without one gives its ``inst_centroid``, stored as
    (x, y). A type comes from ``inst_type``, else is the commonest type above 0 of the nucleus's pixels in
    ``type_map``, else is -1, unlabelled. Rows of ``inst_type`` belong to the ids in ``inst_uid``; without it
    to the ids 1..N where the label map's highest id is N, or to its ids in ascending order where there are N.
    A map without nuclei has types: none is missing.

    Args:
        path: .mat with ``inst_map``, and with ``inst_type``, ``type_map`` or both, where types are known; .npy (H, W),
            or (H, W, 2), label map and type map; .png or .tif, one channel.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: for a file that cannot be read, or whose types cannot be given to nuclei.
    """
    path = Path(path)
    contents = _read(path)
    if "inst_map" not in contents:
        listed = _listed_centroids(contents, path)
        ids = np.arange(1, len(listed.types) + 1)
        return ImageNuclei(str(path), ids=ids, types=listed.types, centroids=listed.centroids)
    label_map = _label_map(contents, path)
    if "inst_type" not in contents and "type_map" not in contents and label_map.any():
        return ImageNuclei(str(path), label_map)
    type_map = _whole_numbers(contents.get("type_map", np.zeros_like(label_map)), f"{path}: type_map")
    if type_map.shape != label_map.shape:
        raise ValueError(
            f"{path}: type_map is {type_map.shape}, inst_map {label_map.shape}; both must show the same image"
        )
    check_types(str(path), type_map)
    votes = Overlap.of(label_map, np.maximum(type_map, 0))
    types = _listed_types(contents, votes.true_ids, path)
    types = np.where(types == UNLABELLED, _majority_types(votes), types)
    return ImageNuclei(
        str(path), label_map, ids=votes.true_ids, types=types, centroids=_centroids(label_map, votes)
    )


def typed_centroids(label_map: np.ndarray, type_map: np.ndarray) -> TypedCentroids:
    """Return where the nuclei of a label map are, and of each the commonest type above 0 of its pixels.

    Args:
        label_map: (H, W) integer, 0 background.
        type_map: (H, W) integer types, 0 background, -1 unlabelled; a nucleus without a type gets -1.
    """
    votes = Overlap.of(label_map, np.maximum(type_map, 0))
    return TypedCentroids(_centroids(label_map, votes), _majority_types(votes))


def _read(path: Path) -> dict[str, np.ndarray]:
    """Return the file's arrays under the names they have in a .mat file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give a label file")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no label file; give one of {', '.join(SUFFIXES)}")
    try:
        loaded = _load(path)
    except NotImplementedError as error:  # scipy's answer to HDF5
        raise ValueError(f"{path} is a MATLAB v7.3 file; save it as v7 (save -v7)") from error
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}; write it again") from error
    return loaded if isinstance(loaded, dict) else _split_channels(path, loaded)


def _load(path: Path) -> dict[str, np.ndarray] | np.ndarray:
    """Return the arrays that a file names, or the one that a file is."""
    if path.suffix.lower() == ".mat":
        return {name: array for name, array in loadmat(path).items() if not name.startswith("__")}
    if path.suffix.lower() == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if path.suffix.lower() in (".tif", ".tiff"):
        return {"inst_map": tifffile.imread(path)}
    with Image.open(path) as image:
        return {"inst_map": np.asarray(image)}


def _split_channels(path: Path, array: np.ndarray) -> dict[str, np.ndarray]:
    names = ("inst_map", "type_map")
    if array.ndim == 2:
        return {"inst_map": array}
    if array.ndim != 3 or not 1 <= array.shape[2] <= len(names):
        raise ValueError(
            f"{path} is {array.shape}; a label map is (H, W), or (H, W, 2) with the types of its pixels: save those "
            "channels alone"
        )
    return {name: array[..., channel] for channel, name in enumerate(names[: array.shape[2]])}


def _label_map(contents: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    """Return the file's label map, checked: two axes, whole numbers, none below 0."""
    label_map = _whole_numbers(contents["inst_map"], f"{path}: inst_map")
    if label_map.ndim != 2:
        raise ValueError(
            f"{path}: a label map must be (H, W), this is {label_map.shape}; store one image, one channel"
        )
    if label_map.min(initial=0) < 0:
        raise ValueError(
            f"{path}: the label map holds id {label_map.min()}; ids start at 1, 0 is background: set it to 0"
        )
    return label_map


def _whole_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Return ``array`` as integers; MATLAB stores label maps as double."""
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind != "f" or not np.array_equal(array, np.trunc(array)):
        raise ValueError(f"{name} is {array.dtype} and not whole numbers; store ids and types as integers")
    return array.astype(np.int64)


def _listed_types(contents: Mapping[str, np.ndarray], ids: np.ndarray, path: Path) -> np.ndarray:
    """Return types (K,) of ``ids`` (K,) from the list in the file, -1 where it does not name the nucleus."""
    if "inst_type" not in contents:
        return np.full(len(ids), UNLABELLED)
    listed = _whole_numbers(contents["inst_type"].ravel(), f"{path}: inst_type")
    if "inst_uid" in contents:
        listed_ids = _whole_numbers(contents["inst_uid"].ravel(), f"{path}: inst_uid")
    elif not len(ids) or len(listed) == ids[-1]:
        listed_ids = np.arange(1, len(listed) + 1)
    else:
        listed_ids = ids
    if len(listed) != len(listed_ids):
        if "type_map" in contents and "inst_uid" not in contents:
            return np.full(len(ids), UNLABELLED)
        raise ValueError(
            f"{path} lists {len(listed)} types for {len(listed_ids)} nuclei; store the rows' ids in inst_uid"
        )
    counted, counts = np.unique(listed_ids, return_counts=True)
    if counts.max(initial=1) > 1:
        raise ValueError(
            f"{path}: inst_uid names id {counted[counts > 1][0]} more than once; keep one row of a nucleus"
        )
    type_of_id = dict(zip(listed_ids.tolist(), listed.tolist(), strict=True))
    absent = [nucleus for nucleus in ids.tolist() if nucleus not in type_of_id]
    if absent and "type_map" not in contents:
        raise ValueError(
            f"{path}: {len(absent)} of {len(ids)} ids of inst_map are not in inst_uid, such as {absent[0]}; add their "
            "rows to inst_uid and inst_type (type -1: unlabelled), or store a type_map"
        )
    return np.array([type_of_id.get(nucleus, UNLABELLED) for nucleus in ids.tolist()], dtype=np.int64)


def _majority_types(votes: Overlap) -> np.ndarray:
    """Return the commonest type (K,) of each nucleus's pixels, the lower of equals; -1 without any."""
    order = np.lexsort((votes.columns, -votes.intersections, votes.rows))
    first = order[np.diff(votes.rows[order], prepend=-1) > 0]
    types = np.full(len(votes.true_ids), UNLABELLED)
    types[votes.rows[first]] = votes.predicted_ids[votes.columns[first]]
    return types


def _centroids(label_map: np.ndarray, nuclei: Overlap) -> np.ndarray:
    """Return the mean pixel coordinates (K, 2), (y, x), of the true nuclei of an overlap table."""
    y, x = np.nonzero(label_map)
    place = np.searchsorted(nuclei.true_ids, label_map[y, x])
    sums = [np.bincount(place, weights=axis, minlength=len(nuclei.true_ids)) for axis in (y, x)]
    return np.stack(sums, axis=1) / nuclei.true_areas[:, None]


def _listed_centroids(contents: Mapping[str, np.ndarray], path: Path) -> TypedCentroids:
    if "inst_centroid" not in contents or "inst_type" not in contents:
        raise ValueError(f"{path} has neither inst_map nor inst_centroid with inst_type; store one of them")
    centroids_xy = np.asarray(contents["inst_centroid"], np.float64).reshape(-1, 2)
    types = _whole_numbers(contents["inst_type"].ravel(), f"{path}: inst_type").astype(np.int64)
    if len(types) != len(centroids_xy):
        raise ValueError(
            f"{path} lists {len(types)} types for {len(centroids_xy)} centroids; store one type per row"
        )
    return TypedCentroids(centroids_xy[:, ::-1], types)
