"""The two sides of an evaluation: how to read the true and the predicted nuclei of each image, by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config.schema import EvaluateSettings
from dataloader.annotations import AnnotatedImage, AnnotationAdapter, open_annotations
from dataloader.annotations.base import IncompleteSplitError
from metrics.detection import REFERENCE_MPP, radius_at
from run_utils.image_nuclei import ImageNuclei
from run_utils.label_files import typed_centroids
from run_utils.nuclei_files import find_nuclei_files, image_name, read_nuclei

Readers = Mapping[str, Callable[[], ImageNuclei]]
"""How to read the nuclei of each image, by its name."""

OPTIONS = (
    "mpp",
    "class_names",
    "colours",
    "types",
)  # what a data set may leave open, named as in config/data.py
OPTION = re.compile(rf"\bdata\.({'|'.join(OPTIONS)})\b")  # as messages for other commands name them


class Truth(NamedTuple):
    """The true side of an evaluation.

    Attributes:
        nuclei: as ``evaluate`` takes it.
        type_names: of the types, background first; empty where unknown.
        mpp: µm/px of the images; 0 where unknown.
    """

    nuclei: str | Readers
    type_names: list[str]
    mpp: float


def open_adapter(settings: EvaluateSettings) -> AnnotationAdapter:
    """Open the data set that is the truth, with the settings that it leaves open; its types stay as they are.

    Raises:
        FileNotFoundError: for a root that is not there.
        ValueError: for an unknown adapter, or a setting that it lacks or needs.
    """
    options = {name: getattr(settings, name) for name in OPTIONS}
    try:
        return open_annotations(settings.adapter, settings.true, **options)
    except ValueError as error:
        raise ValueError(OPTION.sub(r"\1", str(error))) from error


def open_truth(settings: EvaluateSettings) -> Truth:
    """Open the truth that the settings name, a folder of files or a data set; raises as ``open_adapter``."""
    if not settings.adapter:
        return Truth(settings.true, settings.type_names, settings.mpp)
    adapter = open_adapter(settings)
    own_names = [] if settings.merge_types else list(adapter.class_names)
    return Truth(annotated_truth(adapter, settings.split), settings.type_names or own_names, adapter.mpp)


def pair_radius(radius: float, mpp: float) -> float:
    """Return the largest distance of paired centroids in pixels.

    Args:
        radius: as the settings give it; 0 for 3 µm.
        mpp: µm/px of the images; 0 where it is not known, which counts as that of 40x.
    """
    return radius or radius_at(mpp or REFERENCE_MPP)


def open_sides(
    true: str | Path | Readers, predicted_path: Path, type_names: tuple[str, ...]
) -> tuple[Readers, Readers]:
    """Return how to read the nuclei of each image on both sides, by name.

    Where one path is a file, the other directory is narrowed to it.

    Args:
        true: as of ``evaluate``.
        predicted_path: directory or file.
        type_names: name of each type, background first, for files that name types and do not number them.

    Raises:
        FileNotFoundError: for a path that is not there or holds nothing that can be read.
    """
    predictions = find_nuclei_files(predicted_path)
    if isinstance(true, Mapping):
        truths = dict(true)
    else:
        true_path = Path(true)
        true_files = find_nuclei_files(true_path)
        if true_path.is_file() and predicted_path.is_file():
            predictions = {image_name(true_path): predicted_path}
        elif true_path.is_file():
            predictions = {name: path for name, path in predictions.items() if name in true_files}
        truths = {name: partial(read_nuclei, path, type_names) for name, path in true_files.items()}
    if predicted_path.is_file():
        truths = {name: read for name, read in truths.items() if name in predictions}
    return truths, {name: partial(read_nuclei, path, type_names) for name, path in predictions.items()}


def annotated_truth(adapter: AnnotationAdapter, split: str) -> Readers:
    """Return how to read the images of a data set's split as the truth; reading one without labels is an error."""
    try:
        names = adapter.list_names(split)
    except IncompleteSplitError as error:
        names = list(error.names)
    return {name: partial(_read_annotated, adapter, split, name) for name in names}


def nuclei_of(image: AnnotatedImage, source: str) -> ImageNuclei:
    """Return the nuclei of an annotated image, with types where it has them."""
    if image.type_map is None:
        return ImageNuclei(source, image.label_map, tissue=image.tissue)
    found = typed_centroids(image.label_map, image.type_map)
    ids = np.unique(image.label_map)
    return ImageNuclei(
        source,
        image.label_map,
        ids=ids[ids > 0].astype(np.int64),
        types=found.types,
        centroids=found.centroids,
        tissue=image.tissue,
    )


def _read_annotated(adapter: AnnotationAdapter, split: str, name: str) -> ImageNuclei:
    return nuclei_of(adapter.read(split, name), f"{adapter.name} {split}/{name}")
