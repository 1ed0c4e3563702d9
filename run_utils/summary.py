"""From the measured images of a run to the data set's scores with their intervals, and to two runs' differences."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from metrics.agreement import (
    area_differences,
    bland_altman_statistic,
    count_differences,
    count_nuclei,
    r_squared_statistic,
)
from metrics.bootstrap import (
    NUM_RESAMPLES,
    Estimate,
    Label,
    Statistic,
    draw_weights,
    estimate,
    estimate_differences,
    mean_statistic,
)
from metrics.confusion import count_confusion, detection_statistic
from metrics.panoptic import conic_statistic, count_binary, count_types, find_tissues, pannuke_statistics
from metrics.sizes import count_sizes, size_edges, size_statistic
from run_utils.measuring import MeasuredImage

logger = logging.getLogger(__name__)

Images = Mapping[str, MeasuredImage]
Sections = dict[str, list[Statistic]]


@dataclass(frozen=True)
class Pooling:
    """How the images of a data set become one score.

    Attributes:
        tissues: tissue by image; empty takes what the images say.
        num_resamples: draws of images for the intervals; 0 for no intervals.
        seed: of these draws.
    """

    tissues: Mapping[str, str] = field(default_factory=dict)
    num_resamples: int = NUM_RESAMPLES
    seed: int = 10


class ScoreRow(NamedTuple):
    """A score of the data set, or the difference of two runs' scores.

    Attributes:
        section: instance, detection, panoptic, size or agreement.
        score: its name, such as "PQ".
        group: type, tissue or range of sizes that it is of; "" for all.
        value: nan where undefined.
        low: end of the 95 % interval; nan without one.
        high: end of the 95 % interval; nan without one.
    """

    section: str
    score: str
    group: str
    value: float
    low: float
    high: float


def summarise(images: Images, type_names: Sequence[str], pooling: Pooling) -> list[ScoreRow]:
    """Return every score that the images allow, over all of them, with its interval over draws of images.

    Args:
        images: of one run, by name; one at least.
        type_names: name of each type, background first; empty without types.
        pooling: tissues, and how often images are drawn.

    Where only some of the images say their tissue, tissues are left out, with a warning.

    Raises:
        ValueError: where ``pooling`` gives tissues, and none for an image.
    """
    if not pooling.tissues:
        _note_lacking_tissues(images)
    sections = _sections(images, type_names, pooling.tissues)
    return [
        row
        for section, statistics in sections.items()
        for statistic in statistics
        for row in _rows(section, statistic.labels, estimate(statistic, _weights(statistic, pooling)))
    ]


def compare(first: Images, second: Images, type_names: Sequence[str], pooling: Pooling) -> list[ScoreRow]:
    """Return the difference of every score, ``first`` less ``second``, on images of the same names.

    Both runs are drawn alike, so the intervals are those of paired differences. What only one run allows is left out.
    """
    assert list(first) == list(second), "paired by the caller"
    ours, others = (_sections(images, type_names, pooling.tissues) for images in (first, second))
    rows = []
    for section, statistics in ours.items():
        named = {tuple(other.labels): other for other in others.get(section, [])}
        for statistic in statistics:
            other = named.get(tuple(statistic.labels))
            if other is not None and len(other.features) == len(statistic.features):
                found = estimate_differences(statistic, other, _weights(statistic, pooling))
                rows += _rows(section, statistic.labels, found)
    return rows


def count_confusions(images: Images, num_types: int) -> np.ndarray:
    """Return the (T + 2, T + 2) confusion matrix pooled over the images with types; see ``metrics.confusion``."""
    side = np.zeros((num_types + 2, num_types + 2), np.int64)
    return sum((count_confusion(image, num_types) for image in _detections(images)), side)


def image_counts(images: Images, num_types: int) -> dict[str, tuple[list[int], list[int]]]:
    """Return the true and the predicted numbers of nuclei of each image: of all, then of each type from 1 up."""
    found = {}
    for name, image in images.items():
        counts = [[number] for number in image.num_nuclei]
        if image.detections is not None:
            counts = [counted.astype(int).tolist() for counted in _typed_counts(image, num_types)]
        found[name] = (counts[0], counts[1])
    return found


def _sections(images: Images, type_names: Sequence[str], tissue_of: Mapping[str, str]) -> Sections:
    tissue_of = tissue_of or _own_tissues(images)
    scored = [image.scores for image in images.values() if image.scores is not None]
    sections: Sections = {}
    if scored:
        labels = [Label(name) for name in scored[0]]
        table = np.array([list(scores.values()) for scores in scored])
        sections["instance"] = [mean_statistic(labels, table)]
    detections = _detections(images)
    if detections:
        confusions = np.stack([count_confusion(image, len(type_names)) for image in detections])
        sections["detection"] = [detection_statistic(confusions, type_names)]
    sections["panoptic"] = _panoptic(images, type_names, tissue_of)
    sections["size"] = _sizes(images)
    sections["agreement"] = _agreement(images, type_names)
    return sections


def _own_tissues(images: Images) -> dict[str, str]:
    """Return the tissue of each image as the images say it; none unless all that have shapes do."""
    said = {name: image.tissue for name, image in images.items() if image.matches is not None}
    return said if all(said.values()) else {}


def _note_lacking_tissues(images: Images) -> None:
    lacking = [name for name, image in images.items() if image.matches is not None and not image.tissue]
    if lacking and any(image.tissue for image in images.values()):
        logger.warning(
            "scores by tissue are left out, since %d images do not say theirs: %s; give tissues=FILE with a line "
            "name,tissue for each image",
            len(lacking),
            ", ".join(lacking[:5]) + ", …" * (len(lacking) > 5),
        )


def _panoptic(images: Images, type_names: Sequence[str], tissue_of: Mapping[str, str]) -> list[Statistic]:
    names = [name for name, image in images.items() if image.matches is not None]
    matches = [image.matches for image in images.values() if image.matches is not None]
    if not matches:
        return []
    tissues = find_tissues(names, tissue_of)
    binary = np.stack([count_binary(one) for one in matches])
    typed = _typed_panoptic(images, type_names)
    is_typed = typed is not None and len(typed) == len(binary)
    statistics = []
    for strict in (False, True):
        statistics += pannuke_statistics(
            typed if is_typed else None, binary, type_names, tissues=tissues, strict=strict
        )
    if typed is not None and is_typed:
        statistics.append(conic_statistic(typed, type_names))
    return statistics


def _typed_panoptic(images: Images, type_names: Sequence[str]) -> np.ndarray | None:
    """Return (N, T, 4) counts of the images that have both types and shapes; None where there are none."""
    counts = [
        count_types(image.matches, len(type_names))
        for image in images.values()
        if image.matches is not None and image.detections is not None
    ]
    return np.stack(counts) if counts else None


def _sizes(images: Images) -> list[Statistic]:
    matches = [image.matches for image in images.values() if image.matches is not None]
    if not matches:
        return []
    edges = size_edges(np.concatenate([one.true_areas for one in matches]))
    return [size_statistic(np.stack([count_sizes(one, edges) for one in matches]), edges)]


def _agreement(images: Images, type_names: Sequence[str]) -> list[Statistic]:
    typed = [image for image in images.values() if image.detections is not None]
    has_types = len(typed) == len(images)
    groups = ["", *type_names[1:]] if has_types else [""]
    if has_types:
        counts = np.array([_typed_counts(image, len(type_names)) for image in typed])
    else:
        counts = np.array([[[float(number)] for number in image.num_nuclei] for image in images.values()])
    true, predicted = counts[:, 0], counts[:, 1]
    statistics = [bland_altman_statistic("count", count_differences(true, predicted), groups)]
    if has_types:
        statistics.insert(0, r_squared_statistic(true[:, 1:], predicted[:, 1:], type_names))
    matches = [image.matches for image in images.values() if image.matches is not None]
    if matches:
        areas = np.stack([area_differences(one, max(len(type_names), 1)) for one in matches])
        statistics.append(bland_altman_statistic("area", areas[:, : len(groups)], groups))
    return statistics


def _typed_counts(image: MeasuredImage, num_types: int) -> tuple[np.ndarray, np.ndarray]:
    found = image.detections
    assert found is not None
    true = np.concatenate([found.paired_true, found.unpaired_true])
    predicted = np.concatenate([found.paired_predicted, found.unpaired_predicted])
    return count_nuclei(true, num_types), count_nuclei(predicted, num_types)


def _detections(images: Images) -> list:
    return [image.detections for image in images.values() if image.detections is not None]


def _weights(statistic: Statistic, pooling: Pooling) -> np.ndarray | None:
    """Return how often each resample holds each image; the same for every score of as many images."""
    if not pooling.num_resamples:
        return None
    return _draw_once(len(statistic.features), pooling.num_resamples, pooling.seed)


_draw_once = lru_cache(maxsize=2)(draw_weights)  # a second for thousands of images


def _rows(section: str, labels: Sequence[Label], estimates: Sequence[Estimate]) -> list[ScoreRow]:
    return [ScoreRow(section, *label, *found) for label, found in zip(labels, estimates, strict=True)]
