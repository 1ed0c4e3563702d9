"""Finds and reads the nuclei of images in any of the files that inference writes, or others do, by their endings."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa

from dataloader.annotations.base import DAMAGED
from run_utils.image_nuclei import ImageNuclei
from run_utils.label_files import SUFFIXES, read_label_file
from run_utils.outputs import StoredResult, geojson_file, json_file, parquet, store
from run_utils.qupath_files import is_geojson, is_ours, read_objects, read_points

FOLDERS = ("mat", "npy", "label", "store", "parquet", "json", "geojson", "qupath")  # of inference, best first
OURS = ("run.json", "stats.json")  # JSON that describes runs and holds no nuclei
DAMAGED_TABLES = (*DAMAGED, pa.ArrowException)


def find_nuclei_files(path: str | Path) -> dict[str, Path]:
    """List the files of images' nuclei by the images' names.

    Args:
        path: one file, or a directory; one without such files but with a folder that inference writes, such as
            ``mat`` or ``json``, means that folder.

    Returns:
        Path by name, sorted; of several files of one image the first of the endings' order in ``endings``.

    Raises:
        FileNotFoundError: for a path that is not there or holds no such file.
    """
    path = Path(path)
    if path.is_file():
        return {image_name(path): path}
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not there; give a label file or a directory of them")
    found = _rank_files(path)
    for folder in FOLDERS:
        if not found and (path / folder).is_dir():
            found = _rank_files(path / folder)
    if not found:
        raise FileNotFoundError(
            f"{path} holds no label file, nor a folder mat or npy or another that inference writes; give a "
            f"directory of {', '.join(endings())}"
        )
    return found


def endings() -> list[str]:
    """Return the endings of files that can be read; of two files of one image the earlier is read."""
    return list(READERS)


def image_name(path: Path) -> str:
    """Return the name of the image that a file is of: its own without the ending."""
    ending = _ending(path)
    return path.name[: -len(ending)] if ending else path.stem


def read_nuclei(path: Path, type_names: tuple[str, ...] = ()) -> ImageNuclei:
    """Read the nuclei of an image.

    Args:
        path: of an ending in ``endings``.
        type_names: name of each type, background first, for files that name types and do not number them.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: for a file that cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give a label file")
    ending = _ending(path)
    if not ending:
        raise ValueError(f"{path} is no label file; give one of {', '.join(endings())}")
    try:
        return READERS[ending](path, type_names)
    except DAMAGED_TABLES as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        text = str(error) if str(path) in str(error) else f"{path} cannot be read: {reason}; write it again"
        raise ValueError(" ".join(text.split())) from error


def read_tissues(path: str | Path) -> dict[str, str]:
    """Read the tissue of each image from a CSV of lines ``name,tissue``; a first line of these two words is its head.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: for a line without both.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"tissues={path} is not there; give a CSV of lines name,tissue")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [[field.strip() for field in row] for row in csv.reader(file) if any(row)]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or not all(row):
            raise ValueError(f"{path}: line {number} is {','.join(row)!r}; each must be name,tissue")
    return {name: tissue for name, tissue in rows if (name, tissue) != ("name", "tissue")}


def _rank_files(folder: Path) -> dict[str, Path]:
    ranked = {
        (image_name(file), endings().index(_ending(file))): file
        for file in folder.iterdir()
        if _ending(file) and not file.name.startswith(".") and file.name not in OURS
    }
    best = dict(sorted(ranked, reverse=True))  # the lowest rank of a name comes last and stays
    return {name: ranked[name, best[name]] for name in sorted(best)}


def _ending(path: Path) -> str:
    """Return the longest known ending of a file's name, as ``READERS`` has it; "" for none."""
    known = [ending for ending in READERS if path.name.lower().endswith(ending)]
    return max(known, key=len, default="")


def _read_labels(path: Path, type_names: tuple[str, ...]) -> ImageNuclei:
    return read_label_file(path)


def _read_table(read: Callable[[Path], StoredResult], path: Path, type_names: tuple[str, ...]) -> ImageNuclei:
    """Read a table of nuclei that one of our writers, or the reference, wrote."""
    nuclei = read(path).nuclei
    assert nuclei is not None, "these formats are tables"
    return ImageNuclei.of_table(nuclei, str(path))


def _read_geojson(path: Path, type_names: tuple[str, ...]) -> ImageNuclei:
    if is_ours(path):
        return _read_table(geojson_file.read, path, type_names)
    return read_objects(path, type_names)


def _read_json(path: Path, type_names: tuple[str, ...]) -> ImageNuclei:
    if is_geojson(path):
        return _read_geojson(path, type_names)
    return _read_table(json_file.read, path, type_names)


READERS: dict[str, Callable[[Path, tuple[str, ...]], ImageNuclei]] = {
    **dict.fromkeys(SUFFIXES, _read_labels),
    ".ome.tif": _read_labels,
    ".db": partial(_read_table, store.read),
    ".parquet": partial(_read_table, parquet.read),
    ".geojson.gz": _read_geojson,
    ".geojson": _read_geojson,
    ".json": _read_json,
    ".tsv": read_points,
}
