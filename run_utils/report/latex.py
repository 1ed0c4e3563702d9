"""The report's tables as LaTeX, with booktabs: to be taken into a paper with `\\input`."""

from __future__ import annotations

import math

from metrics.bootstrap import Estimate
from run_utils.report.content import Report

ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "²": r"$^2$", "–": "--",
}  # fmt: skip


def to_latex(report: Report) -> str:
    """Return the summary, a table a section, the scores by type or tissue, and the table of images."""
    tables = [
        _table(group.title, ["Score", "Value", r"95\,\% interval"], [
            [escape(name), _number(estimate.value), _interval(estimate)] for name, estimate in group.scores.items()
        ])
        for group in report.groups
    ]  # fmt: skip
    for table in report.by_group:
        rows = [
            [
                escape(row),
                *(
                    _number(table.cells[row, c].value) if (row, c) in table.cells else ""
                    for c in table.columns
                ),
            ]
            for row in table.rows
        ]
        tables.append(_table(table.title, ["", *map(escape, table.columns)], rows))
    rows = [
        [escape(name), *(_number(value) for value in values)]
        for name, values in zip(report.images.names, report.images.values.tolist(), strict=True)
    ]
    tables.append(_table("Images", ["Image", *map(escape, report.images.columns)], rows))
    return "\n".join(["% needs \\usepackage{booktabs}", *tables])


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
