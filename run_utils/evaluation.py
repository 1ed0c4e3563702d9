"""Compares predicted with true nuclei, image by image, and writes the scores: what compute_stats runs.

Training validation calls ``score_pair`` and ``score_types`` on arrays, without files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from config.evaluation import MODES
from config.schema import EvaluateSettings
from dataloader.annotations.base import DAMAGED
from metrics.detection import RADIUS, DetectionScores, TypedDetections, detection_scores
from metrics.panoptic import find_tissues
from metrics.report import Scores, mean_scores
from run_utils.evaluation_report import Comparison, EvaluationReport, align_rows
from run_utils.measuring import MeasuredImage, TypeScheme, match_types, measure_image, score_pair
from run_utils.nuclei_files import read_tissues
from run_utils.sides import Readers, open_sides, open_truth, pair_radius
from run_utils.summary import Pooling, compare, count_confusions, image_counts, summarise

__all__ = [
    "MODES",
    "EvaluationReport",
    "Pooling",
    "TypeScheme",
    "evaluate",
    "evaluate_settings",
    "report_images",
    "match_types",
    "score_pair",
    "score_types",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    """The predictions of one folder beside the truth: what was measured, and why not; names of images all."""

    images: dict[str, MeasuredImage] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    missing_true: list[str] = field(default_factory=list)
    missing_predicted: list[str] = field(default_factory=list)


def evaluate_settings(settings: EvaluateSettings) -> EvaluationReport:
    """Run ``evaluate`` as the settings of ``compute_stats.py`` say."""
    truth = open_truth(settings)
    return evaluate(
        truth.nuclei,
        settings.predicted,
        mode=settings.mode,
        output_dir=settings.output,
        radius=pair_radius(settings.radius, truth.mpp),
        types=TypeScheme(truth.type_names, settings.merge_types),
        against=settings.against,
        pooling=Pooling(
            read_tissues(settings.tissues) if settings.tissues else {}, settings.resamples, settings.seed
        ),
    )


def evaluate(
    true: str | Path | Readers,
    predicted_dir: str | Path,
    *,
    mode: str = "instance",
    output_dir: str | Path = "",
    radius: float = RADIUS,
    types: TypeScheme | None = None,
    against: str | Path = "",
    pooling: Pooling | None = None,
) -> EvaluationReport:
    """Measure every image that has a true and a predicted file; write ``stats.csv``, ``stats.json`` and tables.

    Files are paired by name; what lacks its partner or cannot be measured is listed, the rest measured.

    Args:
        true: directory of files as ``find_nuclei_files`` finds them, or one file, or readers by name.
        predicted_dir: directory or file likewise; two single files are compared whatever their names.
        mode: "instance" for DICE1, DICE2, AJI, AJI+, DQ, SQ, PQ and F1 by IoU; "type" for F_d, accuracy and
            F of each type; "all" for both, as the files allow.
        output_dir: where the files go; "" for beside the prediction.
        radius: for types, the largest distance of paired centroids, in pixels (12 at 40x, 6 at 20x).
        types: what types are called and which count as one; None for the types that occur, by number.
        against: directory of another run, whose scores are taken from this one's; "" for none.
        pooling: tissues of the images and how often they are drawn for the intervals; None for the defaults.

    Raises:
        FileNotFoundError: for a path that is not there, or when no name is on both sides.
        ValueError: for an unknown mode, or when no pair could be measured.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is unknown; give one of {', '.join(MODES)}")
    scheme, pooling = types or TypeScheme(), pooling or Pooling()
    if mode != "instance":
        logger.info("centroids up to %g px apart are pairs", radius)
    measure = partial(measure_image, mode=mode, radius=radius, scheme=scheme)
    folders = [predicted_dir, against] if str(against) else [predicted_dir]
    sides = [open_sides(true, Path(folder), tuple(scheme.names)) for folder in folders]
    for one in sides:
        find_tissues(_names_of_both(*one), pooling.tissues)  # before hours of work
    run, other = _measure_run(*sides[0], measure), _Run()
    if str(against):
        other = _measure_run(*sides[1], measure)
    if not scheme.names and not scheme.merged:
        _warn_of_more_types(run)
    names = _type_names(scheme, [*run.images.values(), *other.images.values()])
    comparison = _compare(run, other, names, pooling, str(against)) if str(against) else None
    report = _report(run, mode, names, pooling, comparison)
    report = replace(report, radius=None if mode == "instance" else radius)
    report.write(Path(output_dir) if str(output_dir) else _directory(Path(predicted_dir)))
    return report


def score_types(images: Sequence[TypedDetections], type_names: Sequence[str]) -> dict[str, float]:
    """Return "F_d", "accuracy" and "F_<name>" of each type, pooled over images, 0..1; nan where undefined.

    Args:
        images: one entry per image, from ``match_types``.
        type_names: name of each type, background first.
    """
    scores: DetectionScores = detection_scores(images, len(type_names))
    named = {f"F_{type_names[type_id]}": score for type_id, score in scores.f_types.items()}
    return {"F_d": scores.f_d, "accuracy": scores.accuracy, **named}


def _names_of_both(truths: Readers, predictions: Readers) -> list[str]:
    both = [name for name in truths if name in predictions]
    if not both:
        raise FileNotFoundError(
            f"no prediction ({_some(predictions)}) has the stem of a truth ({_some(truths)}); name it as its truth"
        )
    return both


def _measure_run(truths: Readers, predictions: Readers, measure: Callable[..., MeasuredImage]) -> _Run:
    """Measure the images of both sides one after another; only what is counted is kept of each."""
    both = _names_of_both(truths, predictions)
    run = _Run(
        missing_true=[name for name in predictions if name not in truths],
        missing_predicted=[name for name in truths if name not in predictions],
    )
    for name in both:
        try:
            run.images[name] = measure(truths[name](), predictions[name]())
        except DAMAGED as error:
            run.failed[name] = _note_failure(name, error)
        else:
            _note_empty_side(name, run.images[name])
    if not run.images:
        raise ValueError(
            f"none of {len(both)} images could be measured; the first: {next(iter(run.failed.values()))}"
        )
    return _without_mixed_types(run)


def _without_mixed_types(run: _Run) -> _Run:
    """List the images without types as failures where others have them: scores per type would leave them out.

    A file without nuclei has types, but where nothing else has any they are no reason to score types.
    """
    typed = {name for name, image in run.images.items() if image.detections is not None}
    untyped = [name for name in run.images if name not in typed]
    if untyped and not any(all(run.images[name].num_nuclei) for name in typed):
        for name in typed:
            run.images[name] = replace(run.images[name], detections=None)
        return run
    for name in untyped if typed else []:
        source = run.images.pop(name).untyped_source
        reason = f"{source} holds no types, as other images do; evaluate it with mode=instance"
        run.failed[name] = _note_failure(name, ValueError(reason))
    return run


def _warn_of_more_types(run: _Run) -> None:
    """Say that the truth has types which no prediction has: the two may number them by different lists."""
    found = [image.detections for image in run.images.values() if image.detections is not None]
    true = [types for one in found for types in (one.paired_true, one.unpaired_true)]
    predicted = [types for one in found for types in (one.paired_predicted, one.unpaired_predicted)]
    highest_true, highest_predicted = (
        max((int(types.max(initial=0)) for types in side), default=0) for side in (true, predicted)
    )
    if 0 < highest_predicted < highest_true:
        logger.warning(
            "types of the truth go up to %d, those of the prediction to %d: if they are not of one list, give "
            "merge_types=[…], or adapter= where the truth is a published data set",
            highest_true,
            highest_predicted,
        )


def _type_names(scheme: TypeScheme, images: Sequence[MeasuredImage]) -> list[str]:
    """Return the scheme's names, or the numbers of the types that occur; none without types."""
    found = [image.detections for image in images if image.detections is not None]
    if not found:
        return []
    highest = max(int(types.max(initial=0)) for detections in found for types in vars(detections).values())
    return list(scheme.names or map(str, range(highest + 1)))


def report_images(
    images: Mapping[str, MeasuredImage], mode: str, type_names: Sequence[str], pooling: Pooling
) -> EvaluationReport:
    """Return what was found on measured images, as training validation measures them.

    Args:
        images: by name; one at least.
        mode: "instance" or "all".
        type_names: name of each type, background first; empty without types.
        pooling: how often images are drawn for the intervals.
    """
    return _report(_Run(dict(images)), mode, list(type_names), pooling, None)


def _report(
    run: _Run, mode: str, names: list[str], pooling: Pooling, comparison: Comparison | None
) -> EvaluationReport:
    scored = {name: image.scores for name, image in run.images.items() if image.scores is not None}
    typed = {name: image.detections for name, image in run.images.items() if image.detections is not None}
    overall: dict[str, float] = mean_scores(scored) | (
        score_types(list(typed.values()), names) if typed else {}
    )
    images: dict[str, Scores] = {
        name: (scored.get(name) or {}) | (score_types([typed[name]], names) if name in typed else {})
        for name in run.images
    }
    return EvaluationReport(
        mode=mode,
        images=align_rows(images, list(overall)),
        overall=overall,
        left_out=[name for name in scored if not any(run.images[name].num_nuclei)],
        missing_true=run.missing_true,
        missing_predicted=run.missing_predicted,
        failed=run.failed,
        scores=summarise(run.images, names, pooling),
        type_names=names,
        confusion=count_confusions(run.images, len(names)).tolist() if typed else [],
        counts=image_counts(run.images, len(names)),
        comparison=comparison,
    )


def _compare(run: _Run, other: _Run, names: list[str], pooling: Pooling, against: str) -> Comparison:
    both = [name for name in run.images if name in other.images]
    if not both:
        raise ValueError(f"against={against} has no image of the predictions; give another run of the same")
    first, second = ({name: images[name] for name in both} for images in (run.images, other.images))
    return Comparison(
        against=against,
        images=both,
        left_out=sorted({*run.images, *other.images, *run.failed, *other.failed} - set(both)),
        differences=compare(first, second, names, pooling),
    )


def _note_failure(name: str, error: Exception) -> str:
    # of an error of a library the kind is said too
    kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
    reason = kind + " ".join(str(error).split())
    logger.error("%s could not be measured: %s", name, reason)
    return reason


def _note_empty_side(name: str, image: MeasuredImage) -> None:
    num_true, num_predicted = image.num_nuclei
    if bool(num_true) != bool(num_predicted):
        side, number = ("prediction", num_true) if num_true else ("truth", num_predicted)
        logger.warning("%s: its %s holds no nuclei, the other side %d: its scores are 0", name, side, number)


def _some(readers: Readers) -> str:
    return ", ".join(list(readers)[:3]) + ", …" * (len(readers) > 3)


def _directory(path: Path) -> Path:
    return path if path.is_dir() else path.parent
