"""The page that `benchmarks.all` and `benchmarks.gpu` write of their results: tables, charts, machine, commands."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import Bar, ratio_bars, size_curves
from benchmarks.figures import Figure, number
from benchmarks.runs import DONE, LEFT_OUT, Benchmark, Result
from run_utils.files import replacing

HEADINGS = ("what", "ours", "the other way", "times better", "asked", "reached", "command")
# of figures that make curves: megapixels, network, what
SIZE = re.compile(r"^(?:\d+ images? of )?(\d+) Mpx, (\w+)(?:, (.+))?$")
VERDICTS = {True: "yes", False: "**no**", None: ""}
SAME_MACHINE = ("cpu", "memory_gib", "gpu", "python", "packages")


def write_page(
    path: Path, benchmarks: Sequence[Benchmark], results: Mapping[str, Result], *, title: str, text: str
) -> None:
    """Write the page, and its charts into the folder of the same name beside it.

    Args:
        path: of the Markdown file.
        benchmarks: all rows, in the order of the page.
        results: of those that have run, by name.
        title: of the page.
        text: below it.
    """
    charts_dir = path.with_suffix("")
    charts_dir.mkdir(parents=True, exist_ok=True)
    themes = list(dict.fromkeys(benchmark.theme for benchmark in benchmarks))
    parts = [f"# {title}", text, *_machine(results), _verdict(results)]
    for theme in themes:
        rows = [benchmark for benchmark in benchmarks if benchmark.theme == theme]
        parts += [f"## {theme.capitalize()}", _table(HEADINGS, _rows(rows, results), "lrlrlll")]
        for name, chart in _charts(theme, rows, results).items():
            (charts_dir / f"{name}.svg").write_text(chart)
            parts.append(f"![{theme}]({charts_dir.name}/{name}.svg)")
    parts += ["## Runs", _runs(benchmarks, results, charts_dir)]
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n")


def _machine(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield what the newest result was measured on, and with."""
    facts = _newest(results)
    if not facts:
        return
    where = f"{facts['cpu']}, {facts['memory_gib']:g} GiB of memory" + (
        f", {facts['gpu']}" if facts["gpu"] else ""
    )
    versions = ", ".join(f"{name} {found}" for name, found in facts["packages"].items())
    yield f"Measured on {where}; {facts['time'][:10]}, commit {_commit(facts)}; Python {facts['python']}, {versions}."


def _newest(results: Mapping[str, Result]) -> Mapping[str, Any]:
    return max(
        (result.environment for result in results.values()), key=lambda facts: str(facts["time"]), default={}
    )


def _commit(facts: Mapping[str, Any]) -> str:
    return (facts["commit"] or "unknown")[:7] + (" with changes" if facts["is_changed"] else "")


def _verdict(results: Mapping[str, Result]) -> str:
    """Return how many figures are what was asked, and which are not."""
    asked = [
        figure for result in results.values() for figure in result.figures if figure.is_reached is not None
    ]
    missed = [figure for figure in asked if not figure.is_reached]
    lines = [f"Of {len(asked)} figures for which something was asked, {len(asked) - len(missed)} reach it."]
    if missed:
        lines.append("Not reached:\n")
        lines += [f"- {figure}" for figure in missed]
    return "\n".join(lines)


def _rows(benchmarks: Sequence[Benchmark], results: Mapping[str, Result]) -> Iterator[Sequence[str]]:
    for benchmark in benchmarks:
        result = results.get(benchmark.name)
        command = f"`{benchmark.line}`"
        for figure in result.figures if result else ():
            yield *_cells(figure), command
        if result is None or result.status != DONE or not result.figures:
            yield f"{benchmark.name}: {_ending(benchmark, result)}", "", "", "", "", "", command


def _cells(figure: Figure) -> Iterator[str]:
    yield figure.what
    yield f"{number(figure.ours)} {figure.unit}".strip()
    other = "" if figure.reference is None else f"{number(figure.reference)} {figure.unit}".strip()
    yield f"{other} ({figure.way})" if other else ""
    yield "" if figure.ratio is None else number(figure.ratio)
    yield figure.asked
    yield VERDICTS[figure.is_reached]


def _ending(benchmark: Benchmark, result: Result | None) -> str:
    if result is not None:
        status = result.status if result.status == DONE else f"**{result.status}**"
        return f"{status}: {result.reason}" if result.reason else status
    return (
        f"runs where it is named, about {benchmark.minutes:g} minutes"
        if benchmark.is_asked_for
        else "not run"
    )


def _charts(theme: str, benchmarks: Sequence[Benchmark], results: Mapping[str, Result]) -> dict[str, str]:
    """Return charts by name: ratios, and curves over the size of images."""
    figures = [figure for row in benchmarks if row.name in results for figure in results[row.name].figures]
    told = Counter(each.what for each in figures)
    bars = [
        Bar(each.what if told[each.what] == 1 else f"{each.what} ({each.way})", each.ratio, each.asked_ratio)
        for each in figures
        if each.ratio and each.ratio > 0
    ]
    charts = (
        {f"{theme}_ratios": ratio_bars(bars, f"{theme}: ours and the other way, same run")} if bars else {}
    )
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for figure in figures:
        if found := SIZE.match(figure.what):
            title = f"{found[3] or 'cost'}, {figure.unit}"
            curves.setdefault(title, {}).setdefault(found[2], []).append((float(found[1]), figure.ours))
    for title, by_network in curves.items():
        name = re.sub(r"\W+", "_", title.split(",")[0])
        charts[f"{theme}_{name}"] = size_curves(by_network, title, "megapixels of the image")
    return charts


def _runs(benchmarks: Sequence[Benchmark], results: Mapping[str, Result], charts_dir: Path) -> str:
    """Return a table of the commands: when, of which commit, how long, and what they printed."""
    newest, rows = _newest(results), []
    for benchmark in benchmarks:
        result = results.get(benchmark.name)
        printed = charts_dir / f"{benchmark.name}.txt"
        facts = result.environment if result else {}
        is_other = bool(facts) and any(facts[key] != newest[key] for key in SAME_MACHINE)
        rows.append(
            (
                f"`{benchmark.line}`",
                _ending(benchmark, result),
                str(facts.get("time", ""))[:10],
                (_commit(facts) if facts else "") + (f", {facts['cpu']}, other versions" if is_other else ""),
                f"{result.seconds / 60:.1f}" if result else f"about {benchmark.minutes:g}",
                f"[printed]({charts_dir.name}/{printed.name})"
                if result and result.status != LEFT_OUT and printed.is_file()
                else "",
            )
        )
    return _table(("command", "ended", "date", "commit", "minutes", "what it printed"), rows, "llllrl")


def _table(
    headings: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]], sides: str
) -> str:
    """Return a table in Markdown; `sides` has l or r for each column."""
    lines = [headings, ["--:" if side == "r" else "---" for side in sides], *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )
