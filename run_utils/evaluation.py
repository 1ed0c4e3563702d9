"""Compares predicted with true label files, image by image, and writes the scores: what compute_stats runs.

Training validation calls ``score_pair`` and ``score_types`` on arrays, without files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrics.detection import (
    RADIUS,
    DetectionScores,
    TypedDetections,
    detect_types,
    detection_scores,
    pair_centroids,
)
from metrics.overlap import Overlap
from metrics.report import Scores, format_table, mean_scores, undefined_images, write_csv, write_json
from metrics.segmentation import aji, aji_plus, dice, dice2, panoptic_quality
from run_utils.label_files import find_label_files, read_label_map, read_typed_centroids

logger = logging.getLogger(__name__)

MODES = ("instance", "type")


@dataclass(frozen=True)
class TypeScheme:
    """What types are called, and which types of the truth count as one.

    Attributes:
        names: name of each type, background first; empty for the types that occur, by number.
        merged: the type that each type of the truth counts as, background first; empty leaves them.
    """

    names: Sequence[str] = ()
    merged: Sequence[int] = ()

    def merge(self, types: np.ndarray) -> np.ndarray:
        """Return (K,) types of the truth merged; -1, unlabelled, stays.

        Raises:
            ValueError: for a type that the scheme does not merge.
        """
        if not self.merged:
            return types
        if types.max(initial=0) >= len(self.merged):
            raise ValueError(
                f"type {types.max()} has no place in merge_types={list(self.merged)}; give one for each type"
            )
        return np.where(types < 0, types, np.asarray(self.merged, types.dtype)[np.maximum(types, 0)])


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found.

    Attributes:
        mode: "instance" or "type".
        images: scores by name of score, by stem of the image, of every image that was measured.
        overall: the same scores over the data set: their mean (instance), or from pooled counts (type).
        left_out: images without any nucleus, whose scores are undefined and which the mean leaves out;
            none in mode "type", since counts are pooled.
        missing_true: stems that only the prediction has.
        missing_predicted: stems that only the truth has.
        failed: why a pair could not be measured, by stem.
    """

    mode: str
    images: dict[str, Scores]
    overall: Scores
    left_out: list[str]
    missing_true: list[str]
    missing_predicted: list[str]
    failed: dict[str, str]

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
                f"{_join(self.left_out)}"
            )
        if self.missing_predicted:
            lines.append(
                f"{len(self.missing_predicted)} without a prediction: {_join(self.missing_predicted)}"
            )
        if self.missing_true:
            lines.append(f"{len(self.missing_true)} without a truth: {_join(self.missing_true)}")
        lines += [f"failed: {stem}: {reason}" for stem, reason in self.failed.items()]
        return "\n".join(lines)

    @property
    def _summary(self) -> dict[str, Scores]:
        return {"mean" if self.mode == "instance" else "all": self.overall}

    def write(self, output_dir: Path) -> None:
        """Write ``stats.csv`` and ``stats.json`` into ``output_dir``, made if absent."""
        output_dir.mkdir(parents=True, exist_ok=True)
        write_csv(output_dir / "stats.csv", self.images, self._summary)
        document = {
            "mode": self.mode,
            "overall": self.overall,
            "num_images": len(self.images),
            "left_out": self.left_out,
            "missing_true": self.missing_true,
            "missing_predicted": self.missing_predicted,
            "failed": self.failed,
            "images": self.images,
        }
        write_json(output_dir / "stats.json", document)


def evaluate(
    true_dir: str | Path,
    predicted_dir: str | Path,
    *,
    mode: str = "instance",
    output_dir: str | Path = "",
    radius: float = RADIUS,
    types: TypeScheme | None = None,
) -> EvaluationReport:
    """Measure every image that has a true and a predicted label file; write ``stats.csv`` and ``stats.json``.

    Files are paired by stem; what lacks its partner or cannot be measured is listed, the rest measured.

    Args:
        true_dir: directory of label files (.mat, .npy, .tif, .png), or one file.
        predicted_dir: the same for the prediction; two single files are compared whatever their names.
        mode: "instance" for DICE1, DICE2, AJI, AJI+, DQ, SQ and PQ; "type" for F_d, accuracy and
            F of each type.
        output_dir: where the two files go; "" for beside the prediction.
        radius: for "type", the largest distance of paired centroids, in pixels (12 at 40x, 6 at 20x).
        types: what types are called and which count as one; None for the types that occur, by number.

    Raises:
        FileNotFoundError: for a path that is not there, or when no stem is on both sides.
        ValueError: for an unknown mode, or when no pair could be measured.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is unknown; give one of {', '.join(MODES)}")
    true_files, predicted_files = _find_both(Path(true_dir), Path(predicted_dir))
    pairs = {
        stem: (true_files[stem], predicted_files[stem]) for stem in true_files if stem in predicted_files
    }
    if not pairs:
        raise FileNotFoundError(
            f"no file of {predicted_dir} has the stem of one in {true_dir}; name a prediction as its truth"
        )
    images, overall, failed = (
        _measure_instances(pairs)
        if mode == "instance"
        else _measure_types(pairs, radius, types or TypeScheme())
    )
    if not images:
        raise ValueError(
            f"none of {len(pairs)} images could be measured; the first: {next(iter(failed.values()))}"
        )
    report = EvaluationReport(
        mode=mode,
        images=images,
        overall=overall,
        left_out=undefined_images(images) if mode == "instance" else [],
        missing_true=[stem for stem in predicted_files if stem not in true_files],
        missing_predicted=[stem for stem in true_files if stem not in predicted_files],
        failed=failed,
    )
    report.write(Path(output_dir) if str(output_dir) else _directory(Path(predicted_dir)))
    return report


def score_pair(true_label_map: np.ndarray, predicted_label_map: np.ndarray) -> dict[str, float]:
    """Return DICE1, DICE2, AJI, AJI+, DQ, SQ and PQ of one image, 0..1; all nan without nuclei.

    Args:
        true_label_map: (H, W) integer, 0 background; ids may have gaps.
        predicted_label_map: (H, W) integer of the same image.

    Raises:
        ValueError: for maps that cannot be compared (shape, dtype, negative ids).
    """
    overlap = Overlap.of(true_label_map, predicted_label_map)
    quality = panoptic_quality(overlap)
    return {
        "DICE1": dice(overlap),
        "DICE2": dice2(overlap),
        "AJI": aji(overlap),
        "AJI+": aji_plus(overlap),
        "DQ": quality.dq,
        "SQ": quality.sq,
        "PQ": quality.pq,
    }


def match_types(
    true: tuple[np.ndarray, np.ndarray], predicted: tuple[np.ndarray, np.ndarray], *, radius: float = RADIUS
) -> TypedDetections:
    """Pair the nuclei of one image and keep their types, to be pooled by ``score_types``.

    Args:
        true: centroids (K, 2) in pixels and types (K,) integer, -1 unlabelled.
        predicted: centroids (L, 2) in the same frame and order of axes, and types (L,) integer.
        radius: largest distance of a pair, in pixels (12 at 40x, 6 at 20x).
    """
    return detect_types(pair_centroids(true[0], predicted[0], radius), true[1], predicted[1])


def score_types(images: Sequence[TypedDetections], type_names: Sequence[str]) -> dict[str, float]:
    """Return "F_d", "accuracy" and "F_<name>" of each type, pooled over images, 0..1; nan where undefined.

    Args:
        images: one entry per image, from ``match_types``.
        type_names: name of each type, background first.
    """
    scores: DetectionScores = detection_scores(images, len(type_names))
    named = {f"F_{type_names[type_id]}": score for type_id, score in scores.f_types.items()}
    return {"F_d": scores.f_d, "accuracy": scores.accuracy, **named}


def _find_both(true_path: Path, predicted_path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the label files by stem; where one path is a file, the other directory is narrowed to it."""
    true_files, predicted_files = find_label_files(true_path), find_label_files(predicted_path)
    if true_path.is_file() and predicted_path.is_file():
        return true_files, {true_path.stem: predicted_path}
    if true_path.is_file():
        predicted_files = {stem: path for stem, path in predicted_files.items() if stem in true_files}
    if predicted_path.is_file():
        true_files = {stem: path for stem, path in true_files.items() if stem in predicted_files}
    return true_files, predicted_files


Pairs = Mapping[str, tuple[Path, Path]]
Measured = tuple[dict[str, Scores], Scores, dict[str, str]]  # images, overall, failed


def _measure_instances(pairs: Pairs) -> Measured:
    images: dict[str, Scores] = {}
    failed: dict[str, str] = {}
    for stem, (true_path, predicted_path) in pairs.items():
        try:
            images[stem] = score_pair(read_label_map(true_path), read_label_map(predicted_path))
        except (ValueError, OSError) as error:
            failed[stem] = _note_failure(stem, error)
    return images, mean_scores(images), failed


def _measure_types(pairs: Pairs, radius: float, scheme: TypeScheme) -> Measured:
    detections: dict[str, TypedDetections] = {}
    failed: dict[str, str] = {}
    highest = 0
    for stem, (true_path, predicted_path) in pairs.items():
        try:
            true, predicted = read_typed_centroids(true_path), read_typed_centroids(predicted_path)
            true_types = scheme.merge(true.types)
            types = np.concatenate([[0], true_types, predicted.types])
            if scheme.names and types.max() >= len(scheme.names):
                raise ValueError(
                    f"type {types.max()} has no name among {list(scheme.names)}; name every type, or merge "
                    "the truth's into fewer with merge_types"
                )
            pairing = pair_centroids(true.centroids, predicted.centroids, radius)
            detections[stem] = detect_types(pairing, true_types, predicted.types)
            highest = max(highest, int(types.max()))
        except (ValueError, OSError) as error:
            failed[stem] = _note_failure(stem, error)
    names = list(scheme.names or map(str, range(highest + 1)))
    images: dict[str, Scores] = {stem: score_types([found], names) for stem, found in detections.items()}
    return images, score_types(list(detections.values()), names), failed


def _note_failure(stem: str, error: Exception) -> str:
    logger.error("%s could not be measured: %s", stem, error)
    return str(error)


def _directory(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _join(stems: Sequence[str]) -> str:
    return ", ".join(stems)
