"""Output formats: each a file with ``write`` beside ``read``, in ``WRITERS``; the end of inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from run_utils.files import replacing
from run_utils.outputs import json_file, label_map, mat, overlay, qupath
from run_utils.outputs.colours import default_colours
from run_utils.outputs.result import ImageResult, StoredResult

__all__ = [
    "WRITERS",
    "ImageResult",
    "OutputFormat",
    "StoredResult",
    "check_names",
    "default_colours",
    "output_path",
    "write_outputs",
]


class OutputFormat(NamedTuple):
    """How a result is kept.

    Attributes:
        extension: of the files, with its dot.
        write: writes a result to a path, whatever that is called.
        read: gives back what the file holds.
        options: keywords that ``write`` takes beside.
    """

    extension: str
    write: Callable[..., None]
    read: Callable[[Path], StoredResult]
    options: tuple[str, ...] = ()


WRITERS = {
    "json": OutputFormat(".json", json_file.write, json_file.read),
    "mat": OutputFormat(".mat", mat.write, mat.read),
    "overlay": OutputFormat(".png", overlay.write, overlay.read, ("legend", "dots")),
    "qupath": OutputFormat(".geojson", qupath.write, qupath.read),
    "npy": OutputFormat(".npy", label_map.write, label_map.read),
}


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError unless every name is a row of ``WRITERS``."""
    unknown = [name for name in names if name not in WRITERS]
    if unknown:
        raise ValueError(
            f"outputs={list(names)}: unknown {', '.join(unknown)}; choose from {', '.join(WRITERS)}"
        )


def output_path(output_dir: str | Path, image_name: str, name: str) -> Path:
    """Return where format ``name`` of an image goes: ``output_dir/name/image_name.extension``.

    A folder for each format keeps an overlay from being taken for a label map.
    """
    return Path(output_dir) / name / f"{image_name}{WRITERS[name].extension}"


def write_outputs(
    result: ImageResult, output_dir: str | Path, names: Sequence[str], **options: bool
) -> dict[str, Path]:
    """Write a result in the formats ``names``, each file whole or not at all.

    A file is written under a temporary name beside its own and renamed when it is complete; one that is there
    already is replaced only then.

    Args:
        result: what to write.
        output_dir: made where it is not there; each format has a folder of its own in it.
        names: rows of ``WRITERS``.
        **options: of the writers, such as ``dots=True`` and ``legend=False`` of the overlay; each goes to the
            formats that take it.

    Returns:
        Where each format went, by name.

    Raises:
        ValueError: an unknown name or option; nothing has been written.
    """
    check_names(names)
    known = {option for row in WRITERS.values() for option in row.options}
    if not known.issuperset(options):
        raise ValueError(f"options {sorted(options)}: writers take only {', '.join(sorted(known))}")
    paths = {name: output_path(output_dir, result.name, name) for name in names}
    for name, path in paths.items():
        taken = {option: value for option, value in options.items() if option in WRITERS[name].options}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            WRITERS[name].write(result, temporary, **taken)
    return paths
