"""The report's tables as LaTeX, with booktabs: to be taken into a paper with `\\input`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from metrics.bootstrap import Estimate
from run_utils.report.content import ByGroup, Confusion, Report

ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "²": r"$^2$", "–": "--",
}  # fmt: skip


def to_latex(report: Report) -> str:
    """Return the summary, the scores by type, tissue and size, the types that were confused, and the images."""
    tables = [_score_table(group.title, "Score", group.scores) for group in report.groups]
    tables += [_group_table(table) for table in report.by_group]
    if report.sizes:
        tables.append(_score_table("PQ by area of the nuclei", "Area", report.sizes))
    if report.confusion is not None:
        tables.append(_confusion_table(report.confusion))
    rows = [
        [escape(name), *(_number(value) for value in values)]
        for name, values in zip(report.images.names, report.images.values.tolist(), strict=True)
    ]
    tables.append(_table("Images", ["Image", *map(escape, report.images.columns)], rows))
    return "\n".join(["% needs \\usepackage{booktabs}", *tables])


def _score_table(title: str, heading: str, scores: Mapping[str, Estimate]) -> str:
    rows = [[escape(name), _number(score.value), _interval(score)] for name, score in scores.items()]
    return _table(title, [heading, "Value", r"95\,\% interval"], rows)


def _group_table(table: ByGroup) -> str:
    """Return the scores of each group, its interval in the row below where it has any."""
    rows = []
    for row in table.rows:
        cells = [table.cells.get((row, column)) for column in table.columns]
        rows.append([escape(row), *("" if cell is None else _number(cell.value) for cell in cells)])
        if any(cell is not None and not math.isnan(cell.low) for cell in cells):
            rows.append(["", *("" if cell is None else f"({_interval(cell)})" for cell in cells)])
    return _table(table.title, ["", *map(escape, table.columns)], rows)


def _confusion_table(confusion: Confusion) -> str:
    """Return the counts, rows true and columns predicted; what is unpaired on both sides does not exist."""
    rows = [
        [escape(name), *map(str, counts)]
        for name, counts in zip([*confusion.names[:-1], "invented"], confusion.counts.tolist(), strict=True)
    ]
    rows[-1][-1] = ""
    return _table(
        "Types of nuclei: rows are true, columns predicted",
        ["", *map(escape, confusion.names[:-1]), "missed"],
        rows,
    )


def escape(text: str) -> str:
    """Return text so that LaTeX shows it as it is."""
    return "".join(ESCAPED.get(character, character) for character in text)


def _table(title: str, headings: list[str], rows: list[list[str]]) -> str:
    lines = [
        f"% {title}",
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        " & ".join(headings) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ]
    return "\n".join(lines)


def _number(value: float) -> str:
    return "--" if math.isnan(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _interval(estimate: Estimate) -> str:
    return "--" if math.isnan(estimate.low) else f"{_number(estimate.low)}--{_number(estimate.high)}"
