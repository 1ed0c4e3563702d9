"""Scores of many images as one table, the end of evaluation: means, text for people, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

Scores = Mapping[str, float]
Estimated = tuple[str, str, str, float, float, float]  # section, score, group, value, low, high


def mean_scores(rows: Mapping[str, Scores]) -> dict[str, float]:
    """Return the mean of each score over the images in which it is defined (not nan).

    Args:
        rows: scores by name of score, by name of image; all images have the same scores.

    Returns:
        A mean per score, in the order of the first image; nan where no image defines it, {} for no images.
    """
    names = list(next(iter(rows.values()), {}))
    return {name: _mean([row[name] for row in rows.values() if not math.isnan(row[name])]) for name in names}


def undefined_images(rows: Mapping[str, Scores]) -> list[str]:
    """Return the names of the images that a mean leaves out: those with a score that is nan."""
    return [image for image, row in rows.items() if any(math.isnan(score) for score in row.values())]


def format_table(rows: Mapping[str, Scores], summary: Mapping[str, Scores]) -> str:
    """Return a text table: a line per image, then those of ``summary``; "-" stands for an undefined score.

    Args:
        rows: scores by name of score, by name of image.
        summary: further lines of the same columns, such as {"mean": …}.
    """
    lines = [
        {"image": name, **{key: "-" if math.isnan(value) else f"{value:.4f}" for key, value in row.items()}}
        for name, row in [*rows.items(), *summary.items()]
    ]
    return tabulate(
        lines, headers="keys", tablefmt="simple", disable_numparse=True, colalign=_alignment(lines)
    )


def format_estimates(rows: Sequence[Estimated]) -> str:
    """Return a text table of scores over a data set: section, score, group, value and 95 % interval."""
    lines = []
    for section, score, group, *numbers in rows:
        value, low, high = ("-" if math.isnan(number) else f"{number:.4f}" for number in numbers)
        lines.append([section, score, group, value, "" if low == high == "-" else f"{low} … {high}"])
    headers = ["section", "score", "of", "value", "95 % interval"]
    return tabulate(
        lines,
        headers=headers,
        tablefmt="simple",
        disable_numparse=True,
        colalign=["left"] * 3 + ["right"] * 2,
    )


def write_rows(path: str | Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table as CSV, at full precision; an undefined number is an empty field."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row])
    _write_whole(Path(path), text.getvalue())


def write_csv(path: str | Path, rows: Mapping[str, Scores], summary: Mapping[str, Scores]) -> None:
    """Write the lines of ``format_table`` as CSV, at full precision; an undefined score is an empty field."""
    lines = [*rows.items(), *summary.items()]
    header = ["image", *(lines[0][1] if lines else ())]
    write_rows(path, header, [[name, *row.values()] for name, row in lines])


def write_json(path: str | Path, document: Mapping[str, object]) -> None:
    """Write ``document`` (dicts, lists, text, numbers) as JSON; nan becomes null, as JSON has no nan."""
    _write_whole(
        Path(path), json.dumps(_without_nan(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    )


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _alignment(lines: list[dict[str, str]]) -> list[str] | None:
    return ["left", *["right"] * (len(lines[0]) - 1)] if lines else None


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_whole(path: Path, text: str) -> None:
    """Write to a temporary name and rename: a killed run leaves the old file or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
