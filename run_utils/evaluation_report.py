"""What an evaluation found, as plain data, and as a table for people, CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metrics.confusion import confusion_names
from metrics.report import Scores, format_estimates, format_table, write_csv, write_json, write_rows
from run_utils.summary import ScoreRow

STATS_CSV, STATS_JSON = "stats.csv", "stats.json"
SCORES_CSV, CONFUSION_CSV, DIFFERENCES_CSV = "scores.csv", "confusion.csv", "differences.csv"


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same images.

    Attributes:
        against: where the other run's predictions are.
        images: names of the images that both runs have.
        left_out: names of those that only one of them has, or that could not be measured in the other.
        differences: this run's scores less the other's, with intervals of the paired differences.
    """

    against: str
    images: list[str]
    left_out: list[str]
    differences: list[ScoreRow]


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found.

    Attributes:
        mode: "instance", "type" or "all".
        images: scores by name of score, by name of the image, of every image that was measured.
        overall: the same scores over the data set: their mean (instance), or from pooled counts (type).
        left_out: images without any nucleus, whose instance scores are undefined and which means leave out.
        missing_true: names that only the prediction has.
        missing_predicted: names that only the truth has.
        failed: why a pair could not be measured, by name.
        scores: every score over the data set with its interval.
        type_names: of the types, background first; empty without types.
        confusion: (T + 2) rows of true and columns of predicted types, then unlabelled, unpaired; empty without types.
        counts: true and predicted numbers of nuclei of each image: of all, then of each type from 1 up.
        comparison: with another run; None without one.
        radius: largest distance of paired centroids, in pixels; None where none were paired, or it is not known.
    """

    mode: str
    images: dict[str, Scores]
    overall: Scores
    left_out: list[str]
    missing_true: list[str]
    missing_predicted: list[str]
    failed: dict[str, str]
    scores: list[ScoreRow] = field(default_factory=list)
    type_names: list[str] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    counts: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    comparison: Comparison | None = None
    radius: float | None = None

    @property
    def exit_status(self) -> int:
        """0 if every image had its pair and was measured, else 1."""
        return int(bool(self.missing_true or self.missing_predicted or self.failed))

    @property
    def table(self) -> str:
        """The scores as text: a line per image, one for all, then what is undefined, missing or failed."""
        lines = [format_table(self.images, self._summary)]
        if self.left_out:
            lines.append(
                f"{len(self.left_out)} of {len(self.images)} without nuclei, left out of the mean: "
                f"{', '.join(self.left_out)}"
            )
        for names, what, remedy in (
            (self.missing_predicted, "a prediction", "predict them, or leave them out of true"),
            (self.missing_true, "a truth", "leave them out of predicted, or name them as their truth"),
        ):
            if names:
                lines.append(f"{len(names)} without {what}: {', '.join(names)}; {remedy}")
        lines += [f"failed: {name}: {reason}" for name, reason in self.failed.items()]
        return "\n".join(lines)

    @property
    def scores_table(self) -> str:
        """Every score with its interval as text, then the differences from another run, where there is one."""
        texts = [format_estimates(self.scores)] if self.scores else []
        if self.comparison is not None:
            heading = f"less {self.comparison.against}, on {len(self.comparison.images)} images of both:"
            texts.append(f"{heading}\n{format_estimates(self.comparison.differences)}")
            if self.comparison.left_out:
                texts.append(f"not of both: {', '.join(self.comparison.left_out)}")
        return "\n\n".join(texts)

    @property
    def _summary(self) -> dict[str, Scores]:
        return {"mean" if self.mode == "instance" else "all": self.overall}

    def to_dict(self) -> dict[str, object]:
        """Return all of it as dicts, lists, text and numbers, undefined ones nan; what ``stats.json`` holds."""
        comparison = self.comparison
        return {
            "mode": self.mode,
            "radius": self.radius,
            "overall": self.overall,
            "num_images": len(self.images),
            "left_out": self.left_out,
            "missing_true": self.missing_true,
            "missing_predicted": self.missing_predicted,
            "failed": self.failed,
            "images": self.images,
            "scores": [row._asdict() for row in self.scores],
            "type_names": self.type_names,
            "confusion": {"names": self._confusion_names, "counts": self.confusion}
            if self.confusion
            else None,
            "counts": {
                name: {"true": true, "predicted": predicted}
                for name, (true, predicted) in self.counts.items()
            },
            "comparison": None
            if comparison is None
            else {
                "against": comparison.against,
                "images": comparison.images,
                "left_out": comparison.left_out,
                "differences": [row._asdict() for row in comparison.differences],
            },
        }

    def write(self, output_dir: Path) -> None:
        """Write ``stats.csv`` (images), ``stats.json`` (all) and a CSV of each other table; the folder is made."""
        output_dir.mkdir(parents=True, exist_ok=True)
        write_csv(output_dir / STATS_CSV, self.images, self._summary)
        if self.scores:
            write_rows(output_dir / SCORES_CSV, ScoreRow._fields, self.scores)
        if self.confusion:
            names = self._confusion_names
            rows = [[name, *counts] for name, counts in zip(names, self.confusion, strict=True)]
            write_rows(output_dir / CONFUSION_CSV, ["true \\ predicted", *names], rows)
        if self.comparison is not None:
            write_rows(output_dir / DIFFERENCES_CSV, ScoreRow._fields, self.comparison.differences)
        write_json(output_dir / STATS_JSON, self.to_dict())

    @property
    def _confusion_names(self) -> list[str]:
        return confusion_names(self.type_names)


def align_rows(rows: Mapping[str, Scores], columns: Sequence[str]) -> dict[str, Scores]:
    """Return the rows with all ``columns``, nan where an image lacks the score."""
    return {name: {column: row.get(column, math.nan) for column in columns} for name, row in rows.items()}
