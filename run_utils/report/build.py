"""From what an evaluation found to the report's content: scores in groups, examples chosen and drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from metrics.bootstrap import Estimate
from metrics.confusion import confusion_names
from run_utils.evaluation_report import EvaluationReport
from run_utils.report.content import ByGroup, Confusion, Example, ImageTable, Report, ScoreGroup
from run_utils.summary import ScoreRow
from run_utils.training.contact_sheet import outline

SECTIONS = {
    "instance": ("Segmentation", "Means over the images; F1 counts pairs above an IoU."),
    "detection": ("Detection and types", "Nuclei paired by centroid, counts pooled over the images."),
    "panoptic": (
        "Panoptic quality",
        "mPQ and bPQ as PanNuke means them, mPQ+ as CoNIC; strict: nuclei of a type that an image lacks count.",
    ),
    "agreement": (
        "Agreement of counts and areas",
        "Bland–Altman: predicted less true; R² as CoNIC means it, but of whole images: the challenge counts in the "
        "central 224 px of its patches.",
    ),
}
"""Title and note of each section of an evaluation, in the order of the page; sizes have a chart of their own."""
ALL = "all nuclei"
BACKGROUND = (200, 200, 200)
"""Grey levels of an example whose image is not known."""
CROP, SHOWN = 512, 360
"""Side in pixels of what is shown of an image, its middle, and of the picture made of it."""


@dataclass(frozen=True)
class Pair:
    """The pixels of one image to draw.

    Attributes:
        true: (H, W) integer label map.
        predicted: the same.
        image: (H, W, 3) uint8 RGB, or None where it is not known.
    """

    true: np.ndarray
    predicted: np.ndarray
    image: np.ndarray | None = None


def make_report(
    evaluation: EvaluationReport,
    *,
    title: str,
    facts: Mapping[str, str],
    num_resamples: int,
    read_pair: Callable[[str], Pair | None] | None = None,
    num_examples: int = 5,
) -> Report:
    """Return the content of a page.

    Args:
        evaluation: what was found.
        title: of the page.
        facts: where it comes from.
        num_resamples: draws of images that the intervals of ``evaluation`` are of.
        read_pair: gives the label maps of an image by its name, for the examples; None where they cannot be
            drawn. Without it there are no examples.
        num_examples: best and worst images to show, each; no image is shown twice.
    """
    columns = list(evaluation.overall)
    values = [[row[column] for column in columns] for row in evaluation.images.values()]
    best, worst = _choose(evaluation, num_examples) if read_pair is not None else ([], [])
    counts = [(true[0], predicted[0]) for true, predicted in evaluation.counts.values()]
    return Report(
        title=title,
        facts={"images": str(len(evaluation.images)), **facts},
        groups=_groups(evaluation),
        by_group=_by_group(evaluation),
        images=ImageTable(list(evaluation.images), columns, np.array(values, np.float64)),
        confusion=_confusion(evaluation),
        sizes={row.group: _estimate(row) for row in evaluation.scores if row.section == "size"},
        counts=np.array(counts, np.int64) if counts else None,
        best=_draw(evaluation, best, read_pair),
        worst=_draw(evaluation, worst, read_pair),
        remarks=_remarks(evaluation),
        num_resamples=num_resamples,
    )


def _groups(evaluation: EvaluationReport) -> list[ScoreGroup]:
    """Return the scores of all nuclei together, section by section, then what differs from another run."""
    groups = []
    for section, (title, note) in SECTIONS.items():
        scores = {
            row.score: _estimate(row) for row in evaluation.scores if row.section == section and not row.group
        }
        if scores and section != "agreement":
            groups.append(ScoreGroup(title, scores, note))
    comparison = evaluation.comparison
    if comparison is not None:
        scores = {_name(row): _estimate(row) for row in comparison.differences if row.section in SECTIONS}
        note = f"On {len(comparison.images)} images of both; an interval without 0 tells them apart."
        groups.append(ScoreGroup(f"Difference from {comparison.against}", scores, note))
    return groups


def _by_group(evaluation: EvaluationReport) -> list[ByGroup]:
    """Return the scores of types and tissues, section by section; agreement has a row for all nuclei too."""
    tables = []
    for section, (title, note) in SECTIONS.items():
        is_agreement = section == "agreement"
        rows = [row for row in evaluation.scores if row.section == section and (row.group or is_agreement)]
        if rows:
            cells = {(row.group or ALL, row.score.replace("_", " ")): _estimate(row) for row in rows}
            groups, columns = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
            tables.append(
                ByGroup(title if is_agreement else f"{title}, by group", groups, columns, cells, note)
            )
    return tables


def _name(row: ScoreRow) -> str:
    return f"{row.score} {row.group}".strip()


def _estimate(row: ScoreRow) -> Estimate:
    return Estimate(row.value, row.low, row.high)


def _confusion(evaluation: EvaluationReport) -> Confusion | None:
    """Return the matrix without the kinds of nuclei that do not occur, the unpaired always last."""
    if not evaluation.confusion:
        return None
    counts = np.array(evaluation.confusion, np.int64)
    names = confusion_names(evaluation.type_names)
    occurs = (counts.sum(0) + counts.sum(1)) > 0
    occurs[1 : len(evaluation.type_names)] = True
    occurs[-1] = True
    return Confusion(
        [name for name, shown in zip(names, occurs, strict=True) if shown], counts[occurs][:, occurs]
    )


def _choose(evaluation: EvaluationReport, num_examples: int) -> tuple[list[str], list[str]]:
    """Return the names of the best and of the worst images by PQ, undefined ones left out."""
    defined = {
        name: row["PQ"] for name, row in evaluation.images.items() if not math.isnan(row.get("PQ", math.nan))
    }
    ranked = sorted(defined, key=lambda name: defined[name], reverse=True)
    num_best = min(num_examples, (len(ranked) + 1) // 2)
    num_worst = min(num_examples, len(ranked) - num_best)
    return ranked[:num_best], ranked[::-1][:num_worst]


def _draw(
    evaluation: EvaluationReport, names: Sequence[str], read_pair: Callable[[str], Pair | None] | None
) -> list[Example]:
    examples = []
    for name in names:
        pair = read_pair(name) if read_pair is not None else None
        if pair is not None:
            shown = [_outlined(pair, label_map) for label_map in (pair.true, pair.predicted)]
            examples.append(Example(name, evaluation.images[name]["PQ"], *shown))
    return examples


def _outlined(pair: Pair, label_map: np.ndarray) -> np.ndarray:
    """Return the middle of an image with the nuclei of a map outlined, (h, w, 3) uint8 RGB."""
    height, width = label_map.shape
    top, left = max(height - CROP, 0) // 2, max(width - CROP, 0) // 2
    window = (slice(top, top + CROP), slice(left, left + CROP))
    labels = label_map[window]
    pixels = np.full((*labels.shape, 3), BACKGROUND, np.uint8) if pair.image is None else pair.image[window]
    outlined = outline(pixels, labels)
    scale = min(SHOWN / max(outlined.shape[:2]), 1.0)
    size = (max(round(outlined.shape[1] * scale), 1), max(round(outlined.shape[0] * scale), 1))
    return cv2.resize(outlined, size, interpolation=cv2.INTER_AREA)


def _remarks(evaluation: EvaluationReport) -> list[str]:
    remarks = [f"{name} could not be measured: {reason}" for name, reason in evaluation.failed.items()]
    for names, what in (
        (evaluation.missing_predicted, "without a prediction"),
        (evaluation.missing_true, "without a truth"),
        (evaluation.left_out, "without nuclei on both sides, left out of the means"),
    ):
        if names:
            remarks.append(f"{len(names)} {what}: {', '.join(names)}")
    return remarks
