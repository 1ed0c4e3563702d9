"""Training runs side by side: what they differ in, how good they are and how sure that is, and what they cost."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tabulate import tabulate

from config.comparison import CompareSettings
from metrics.bootstrap import (
    Estimate,
    Label,
    Statistic,
    draw_weights,
    estimate,
    estimate_differences,
    mean_statistic,
)
from metrics.report import write_rows
from run_utils.files import replacing
from run_utils.training.flat_settings import FREE_SETTINGS, flatten_settings, shorten_names
from run_utils.training.record import (
    DONE,
    FAILURE_NAME,
    MAIN_SCORES,
    name_scores,
    read_record,
    read_scores,
    read_status,
)

CSV_NAME, PAGE_NAME = "runs.csv", "runs.md"
SETTINGS_NAME = "settings.yaml"
WIDTH = 112  # characters of the text below the tables
UNCOMPARED = ("output", "view", "profile")  # settings
UNDEFINED = Estimate(math.nan, math.nan, math.nan)
COLUMNS = ("run", "status", "patches", "passes", "time", "interval", *MAIN_SCORES)  # beside those of settings
SCORES = tuple(name for name in MAIN_SCORES if name != "PQ")
LEGEND = (
    "PQ: of the best network on the validation images, with the 95 % interval over draws of images. Less the best: the "
    "difference from the first run, with the interval of the differences on the same images. A run marked ≈ cannot be "
    "told apart from the best: that interval holds 0, or, where the images are not the same, the intervals of PQ "
    "overlap. Seeds vary results too: an interval over images does not hold that."
)


@dataclass(frozen=True)
class Draws:
    """How images are drawn for intervals.

    Attributes:
        num_resamples: draws; 0 for no intervals.
        seed: of these.
    """

    num_resamples: int
    seed: int

    def weigh(self, num_images: int) -> np.ndarray | None:
        """Return how often each draw holds each image; None for no intervals."""
        return draw_weights(num_images, self.num_resamples, self.seed) if self.num_resamples else None


@dataclass(frozen=True)
class RunSummary:
    """What is known of one run.

    Attributes:
        name: its folder, as seen from the folder of all.
        settings: by full name; none of a run that failed before it began.
        status: `done`, `going on`, `failed` or `stopped`.
        reason: why it failed; "" where it did not.
        scores: the other scores, by their names in the table; nan where undefined.
        image_pq: PQ by name of image; nan where undefined.
        record: `record.json`.
        pq: of the best network, the mean over the validation images.
        less_best: PQ less that of the best run.
        is_like_best: whether the two cannot be told apart; None where that is not known.
    """

    name: str
    settings: Mapping[str, Any]
    status: str
    reason: str
    scores: Mapping[str, float]
    image_pq: Mapping[str, float]
    record: Mapping[str, Any]
    pq: Estimate = UNDEFINED
    less_best: Estimate = UNDEFINED
    is_like_best: bool | None = None


def compare_runs(settings: CompareSettings) -> str:
    """Return a table of the runs below a folder as text, and write it as `runs.csv` and `runs.md`.

    Raises:
        FileNotFoundError: where there is no such folder, or no run in it.
    """
    folder = Path(settings.runs)
    if not folder.is_dir():
        raise FileNotFoundError(f"runs={folder} is not a folder; give the one that holds the runs")
    runs = [read_run(path, folder) for path in find_runs(folder)]
    if not runs:
        raise FileNotFoundError(f"runs={folder} holds no run: no {SETTINGS_NAME} of run_train.py below it")
    draws = Draws(settings.resamples, settings.seed)
    runs = rank_runs(runs, draws)
    names = differing_settings(runs)
    output_dir = Path(settings.output or settings.runs)
    output_dir.mkdir(parents=True, exist_ok=True)
    rows = [_plain_row(run, names) for run in runs]
    write_rows(output_dir / CSV_NAME, list(rows[0]), [list(row.values()) for row in rows])
    table = [_row(run, names) for run in runs]
    with replacing(output_dir / PAGE_NAME) as temporary:
        temporary.write_text(_page(table, runs, names), encoding="utf-8")
    legend = textwrap.fill(LEGEND, WIDTH)
    return "\n\n".join([_table(table, "simple"), *_over_seeds(runs, names, "simple"), legend])


def show_runs(folder: str) -> str:
    """Return the table of a sweep that has just ended; "" where no run has begun."""
    try:
        return f"{compare_runs(CompareSettings(runs=folder))}\n"
    except FileNotFoundError:
        return ""


def find_runs(folder: Path) -> list[Path]:
    """Return the folders of training runs at or below a folder, sorted by name; those that failed at once too."""
    begun = {path.parent for path in folder.rglob(SETTINGS_NAME) if "train" in _read_settings(path.parent)}
    return sorted(begun | {path.parent for path in folder.rglob(FAILURE_NAME)})


def read_run(path: Path, folder: Path) -> RunSummary:
    """Return what is known of the run in a folder."""
    scores = read_scores(path)
    images = {name: _number(row.get("PQ")) for name, row in scores.get("images", {}).items()}
    status, reason = read_status(path)
    return RunSummary(
        name=str(path.relative_to(folder)) if path != folder else path.name,
        settings=dict(flatten_settings(_read_settings(path))),
        status=status,
        reason=reason,
        scores=name_scores(scores),
        image_pq=images,
        record=read_record(path),
    )


def rank_runs(runs: Sequence[RunSummary], draws: Draws) -> list[RunSummary]:
    """Return the runs with their PQ, the best first and those without any last, each compared with the best."""
    scored = [replace(run, pq=_estimate_pq(run, draws)) for run in runs]
    ranked = sorted(
        scored, key=lambda run: -math.inf if math.isnan(run.pq.value) else run.pq.value, reverse=True
    )
    best = ranked[0]
    return [best, *(_compare(run, best, draws) for run in ranked[1:])]


def _estimate_pq(run: RunSummary, draws: Draws) -> Estimate:
    if not run.image_pq:
        return UNDEFINED
    return estimate(_statistic(run, list(run.image_pq)), draws.weigh(len(run.image_pq)))[0]


def _compare(run: RunSummary, best: RunSummary, draws: Draws) -> RunSummary:
    """Compare a run with the best, image by image where both were validated on the same."""
    if math.isnan(run.pq.value):
        return run
    if run.image_pq.keys() != best.image_pq.keys():
        less = Estimate(run.pq.value - best.pq.value, math.nan, math.nan)
        overlaps = None if math.isnan(run.pq.high + best.pq.low) else run.pq.high >= best.pq.low
        return replace(run, less_best=less, is_like_best=overlaps)
    names = list(best.image_pq)
    less = estimate_differences(_statistic(run, names), _statistic(best, names), draws.weigh(len(names)))[0]
    return replace(run, less_best=less, is_like_best=None if math.isnan(less.high) else less.high >= 0)


def _statistic(run: RunSummary, names: Sequence[str]) -> Statistic:
    values = np.array([[run.image_pq[name]] for name in names], np.float64)
    return mean_statistic([Label("PQ")], values)


def differing_settings(runs: Sequence[RunSummary]) -> list[str]:
    """Return the full names of the settings in which the runs differ, in the order of the settings."""
    known = [run.settings for run in runs if run.settings]
    names = dict.fromkeys(name for settings in known for name in settings if name not in UNCOMPARED)
    return [name for name in names if len({repr(settings.get(name)) for settings in known}) > 1]


def _row(run: RunSummary, names: Sequence[str]) -> dict[str, str]:
    """Return a run as cells of a table for people."""
    seconds = run.record.get("seconds")
    scores = {name: _format(run.scores.get(name, math.nan)) for name in SCORES}
    return {
        "": "≈" if run.is_like_best else "",
        "run": run.name,
        **{label: str(run.settings.get(name, "–")) for name, label in _label(names).items()},
        "PQ": _format(run.pq.value),
        "95 % interval": _format_interval(run.pq),
        "less the best": _format(run.less_best.value, "+"),
        "interval": _format_interval(run.less_best, "+"),
        **scores,
        "passes": f"{run.record['epochs']:g}" if run.record else "–",
        "patches": f"{run.record['patches']:,}" if run.record else "–",
        "time": "–" if seconds is None else _format_time(seconds),
        "trained on": run.record.get("device", "–"),
        "status": f"{run.status}: {run.reason}" if run.reason else run.status,
    }


def _plain_row(run: RunSummary, names: Sequence[str]) -> dict[str, object]:
    """Return a run as plain values, for a file that programs read."""
    return {
        "run": run.name,
        "status": run.status,
        "reason": run.reason,
        **{name: run.settings.get(name, "") for name in names},
        **dict(zip(("PQ", "PQ_low", "PQ_high"), run.pq, strict=True)),
        **dict(zip(("less_best", "less_best_low", "less_best_high"), run.less_best, strict=True)),
        "like_best": "" if run.is_like_best is None else run.is_like_best,
        **{name: run.scores.get(name, math.nan) for name in SCORES},
        "passes": run.record.get("epochs", ""),
        **{name: run.record.get(name, "") for name in ("step", "patches", "seconds")},
        "trained_on": run.record.get("device", ""),
    }


def _label(names: Sequence[str]) -> dict[str, str]:
    """Return short names for columns of settings, none of them the name of another column."""
    return {name: name if short in COLUMNS else short for name, short in shorten_names(names).items()}


def _over_seeds(runs: Sequence[RunSummary], names: Sequence[str], style: str) -> list[str]:
    """Return a table of mean and spread over seeds, where runs differ in no other setting; none where there is none.

    Settings that weights do not depend on do not count; of runs that share the seed too, the worst does.
    """
    others = [name for name in names if name not in ("seed", *FREE_SETTINGS)]
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    for run in runs:
        if not math.isnan(run.pq.value) and run.status == DONE:
            key = tuple(str(run.settings.get(name)) for name in others)
            groups.setdefault(key, {})[str(run.settings.get("seed"))] = run.pq.value
    if "seed" not in names or max(map(len, groups.values()), default=0) < 2:
        return []
    short = shorten_names(others)
    scored = {key: list(by_seed.values()) for key, by_seed in groups.items()}
    rows = [
        {
            **{short[name]: value for name, value in zip(others, values, strict=True)},
            "seeds": str(len(scores)),
            "mean PQ": _format(float(np.mean(scores))),
            "standard deviation": _format(float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan),
        }
        for values, scores in sorted(scored.items(), key=lambda item: -float(np.mean(item[1])))
    ]
    return [_table(rows, style)]


def _page(table: Sequence[Mapping[str, str]], runs: Sequence[RunSummary], names: Sequence[str]) -> str:
    """Return the tables as a Markdown page."""
    done = sum(run.status == DONE for run in runs)
    return (
        "\n\n".join(
            [
                "# Runs",
                f"{done} of {len(runs)} are done.",
                _table(table, "github"),
                *_over_seeds(runs, names, "github"),
                LEGEND,
            ]
        )
        + "\n"
    )


def _table(rows: Sequence[Mapping[str, str]], style: str) -> str:
    is_used = {key: any(row[key] not in ("", "–") for row in rows) for key in rows[0]}
    kept = [{key: value for key, value in row.items() if is_used[key]} for row in rows]
    return tabulate(kept, headers="keys", tablefmt=style, disable_numparse=True)


def _format(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.4f}"


def _format_interval(found: Estimate, sign: str = "") -> str:
    return "–" if math.isnan(found.low) else f"{found.low:{sign}.4f} … {found.high:{sign}.4f}"


def _format_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _read_settings(path: Path) -> dict[str, Any]:
    file = path / SETTINGS_NAME
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file.is_file() else {}
