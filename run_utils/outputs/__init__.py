"""Output formats: each a file with ``write`` beside ``read``, in ``WRITERS``; the end of inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from run_utils.files import replacing
from run_utils.outputs import (
    geojson_file,
    json_file,
    label,
    label_map,
    mask,
    mat,
    overlay,
    parquet,
    picture,
    store,
    thumb,
)
from run_utils.outputs.colours import default_colours
from run_utils.outputs.result import PackedLabels, Part, SlideResult, StoredResult, paint_labels

__all__ = [
    "WRITERS",
    "OutputFormat",
    "PackedLabels",
    "Part",
    "SlideResult",
    "StoredResult",
    "check_names",
    "default_colours",
    "output_path",
    "paint_labels",
    "write_output",
    "write_outputs",
]


class OutputFormat(NamedTuple):
    """How a result is kept.

    Attributes:
        extension: of the files, with its dot.
        write: writes a result to a path, whatever that is called.
        read: gives back what the file holds.
        is_whole: ``write`` holds the whole image and its label map in memory, so that a slide may be too large.
        options: keywords that ``write`` takes beside.
    """

    extension: str
    write: Callable[..., None]
    read: Callable[[Path], StoredResult]
    is_whole: bool = False
    options: tuple[str, ...] = ()


WRITERS = {
    "json": OutputFormat(".json", json_file.write, json_file.read),
    "mat": OutputFormat(".mat", mat.write, mat.read, is_whole=True),
    "overlay": OutputFormat(".ome.tif", overlay.write, overlay.read, options=("dots",)),
    "picture": OutputFormat(".png", picture.write, picture.read, is_whole=True, options=("legend", "dots")),
    "geojson": OutputFormat(".geojson.gz", geojson_file.write_compressed, geojson_file.read),
    "qupath": OutputFormat(".geojson", geojson_file.write, geojson_file.read),
    "parquet": OutputFormat(".parquet", parquet.write, parquet.read),
    "store": OutputFormat(".db", store.write, store.read),
    "npy": OutputFormat(".npy", label_map.write, label_map.read, is_whole=True),
    "label": OutputFormat(".ome.tif", label.write, label.read),
    "thumb": OutputFormat(".png", thumb.write, thumb.read),
    "mask": OutputFormat(".png", mask.write, mask.read),
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
    result: SlideResult, output_dir: str | Path, names: Sequence[str], **options: bool
) -> dict[str, Path]:
    """Write a result in the formats ``names``, one after another; see ``write_output``.

    Returns:
        Where each format went, by name.

    Raises:
        ValueError: an unknown name or option; nothing has been written.
    """
    check_names(names)
    known = {option for row in WRITERS.values() for option in row.options}
    if not known.issuperset(options):
        raise ValueError(f"options {sorted(options)}: writers take only {', '.join(sorted(known))}")
    return {name: write_output(result, output_dir, name, options=options) for name in names}


def write_output(
    result: SlideResult,
    output_dir: str | Path,
    name: str,
    *,
    options: Mapping[str, bool] | None = None,
    scratch_dir: Path | None = None,
) -> Path:
    """Write a result in one format, its file whole or not at all.

    The file is written under a temporary name and renamed when it is complete; one that is there already is
    replaced only then.

    Args:
        result: what to write.
        output_dir: made where it is not there; each format has a folder of its own in it.
        name: a row of ``WRITERS``.
        options: of the writers, such as ``dots`` of the overlay; those that this one does not take are left out.
        scratch_dir: folder for the temporary name, on the same file system; None for beside the file.

    Returns:
        Where the file is.
    """
    path = output_path(output_dir, result.name, name)
    taken = {option: value for option, value in (options or {}).items() if option in WRITERS[name].options}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None if scratch_dir is None else scratch_dir / f"{result.name}.{name}"
    with replacing(path, temporary) as temporary:
        WRITERS[name].write(result, temporary, **taken)
    return path
