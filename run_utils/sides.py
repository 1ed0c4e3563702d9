"""The two sides of an evaluation: how to read the true and the predicted nuclei of each image, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from dataloader.annotations import AnnotatedImage, AnnotationAdapter
from run_utils.image_nuclei import ImageNuclei
from run_utils.label_files import typed_centroids
from run_utils.nuclei_files import find_nuclei_files, image_name, read_nuclei

Readers = Mapping[str, Callable[[], ImageNuclei]]
"""How to read the nuclei of each image, by its name."""


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
    """Return how to read the images of a data set's split as the truth."""
    return {name: partial(_read_annotated, adapter, split, name) for name in adapter.list_names(split)}


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
