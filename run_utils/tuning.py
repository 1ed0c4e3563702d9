"""Which decode settings find most nuclei right: maps are predicted once, then decoded in many ways and scored by PQ."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from config.schema import InferSettings, TuneSettings
from metrics.overlap import Overlap
from metrics.segmentation import panoptic_quality
from models.hovernet.checkpoint import FORMAT, build_stored, read_checkpoint, save_checkpoint, stored_weights
from models.hovernet.conversion import number_format
from models.hovernet.postprocess import MARKER_THRESHOLD, MIN_SIZE, NUCLEI_THRESHOLD, decode
from models.nuclei import Nuclei
from run_utils.build import open_patches
from run_utils.build_inference import build_plan, build_predictor
from run_utils.devices import usable_cpus
from run_utils.inference.maps import predict_region
from run_utils.inference.plan import DecodeOptions
from run_utils.inference.predictors import ProbabilityMaps
from run_utils.stain import choose_normalizer

logger = logging.getLogger(__name__)

NUM_SHOWN = 8  # of the best settings, in the table


class Setting(NamedTuple):
    """One way to decode: see ``decode``."""

    nuclei_threshold: float
    marker_threshold: float
    min_size: int


DEFAULT = Setting(NUCLEI_THRESHOLD, MARKER_THRESHOLD, MIN_SIZE)


@dataclass(frozen=True)
class ValidationImage:
    """An image to tune on: its name, (H, W) int32 true label map, and what the network gives for it."""

    name: str
    label_map: np.ndarray
    maps: ProbabilityMaps


def tune(settings: TuneSettings) -> str:
    """Search, write what was found into the checkpoint, and return a table for people.

    First every pair of thresholds, then sizes of blobs with the best of them, then a smallest nucleus for each
    type: each by the mean PQ over the images.

    Raises:
        FileNotFoundError: the checkpoint or the images are missing.
        ValueError: the checkpoint is not ours and ``output`` is empty, or the store has no image.
    """
    output = settings.output or settings.checkpoint
    content = read_checkpoint(settings.checkpoint)
    if not settings.output and content.get("format") != FORMAT:
        raise ValueError(f"{settings.checkpoint} is no checkpoint of ours to write into; give output=FILE.pt")
    images = predict_images(settings)
    start = time.perf_counter()
    search = Search(images, settings.normalisation, settings.workers)
    grid = itertools.product(settings.nuclei_thresholds, settings.marker_thresholds)
    search.score([Setting(*pair, MIN_SIZE) for pair in grid] + [DEFAULT])
    search.score([search.best._replace(min_size=size) for size in settings.min_sizes])
    min_areas, final = choose_areas(search, settings.min_areas)
    seconds = time.perf_counter() - start
    logger.info("%d settings on %d images in %.0f s", len(search.scores), len(images), seconds)
    found = {**search.best._asdict(), "min_areas": min_areas, "normalisation": settings.normalisation}
    record = {"decoding": found, "tuned": _record(search, settings.patches, final)}
    dtype = number_format(stored_weights(content, settings.checkpoint))
    save_checkpoint(build_stored(content, settings.checkpoint), output, dtype=dtype, **record)
    logger.info("%s holds the settings now; run_infer.py takes them where it is given none", output)
    return _table(search, min_areas, final)


def predict_images(settings: TuneSettings) -> list[ValidationImage]:
    """Return the images of a patch store with their maps, predicted once; every patch of a `.npy` folder is an image.

    The maps stay in memory, so that there are at most ``max_images``.
    """
    store = open_patches(Path(settings.patches))
    predictor, plan, normalizer = _prepare(settings)
    statistics = None if normalizer is None else store.stain_statistics(normalizer.method)
    images = []
    chosen = spread(len(store.source_names), settings.max_images)
    if len(chosen) < len(store.source_names):
        logger.info(
            "max_images=%d: %d of the %d images of %s, evenly spread, are tuned on",
            settings.max_images, len(chosen), len(store.source_names), settings.patches,
        )  # fmt: skip
    for number in tqdm(chosen, desc="predict", unit="image"):
        source = store.read_source(number)
        pixels = source.image
        if normalizer is not None and statistics is not None:
            pixels = normalizer.transform(pixels, statistics[number])
        height, width = source.label_map.shape

        def read(box: tuple[int, int, int, int], pixels: np.ndarray = pixels) -> np.ndarray:
            return pixels[box[0] : box[2], box[1] : box[3]]

        maps = predict_region(read, (height, width), (0, 0, height, width), predictor, plan)
        images.append(ValidationImage(source.name, source.label_map, maps))
    return images


def spread(num_images: int, most: int) -> list[int]:
    """Return the numbers of at most ``most`` images (0 for all), evenly spread from the first to the last."""
    num_chosen = min(num_images, most) if most else num_images
    return np.linspace(0, num_images - 1, num_chosen).round().astype(int).tolist()


def _prepare(settings: TuneSettings) -> tuple[Any, Any, Any]:
    inference = InferSettings(
        input="",
        output="",
        checkpoint=settings.checkpoint,
        window=settings.window,
        precision=settings.precision,
        device=settings.device,
        maps="full",
        decoder="cpu",  # maps are decoded many times, by threads of the CPU
    )
    predictor = build_predictor(inference)
    return (
        predictor,
        build_plan(inference, predictor),
        choose_normalizer(settings.stain, predictor.facts.notes),
    )


class Search:
    """The settings that were tried, and their PQ on each image.

    Args:
        images: to score on.
        normalisation: of the HV gradients.
        workers: threads; -1 takes one per CPU this process may use.

    Attributes:
        scores: (N,) PQ of each of N images, by setting; nan where an image holds no nucleus.
    """

    def __init__(self, images: Sequence[ValidationImage], normalisation: str, workers: int = -1) -> None:
        self.images = images
        self.normalisation = normalisation
        self.workers = usable_cpus() if workers < 0 else workers
        self.scores: dict[Setting, np.ndarray] = {}

    def score(self, settings: Sequence[Setting]) -> None:
        """Decode and score every image with every setting that was not tried before."""
        new = [setting for setting in dict.fromkeys(settings) if setting not in self.scores]
        jobs = list(itertools.product(new, range(len(self.images))))
        cv2.setNumThreads(1)  # the threads are the parallelism
        with ThreadPoolExecutor(self.workers) as threads:
            results = threads.map(lambda job: self._score_one(*job), jobs)
            values = list(tqdm(results, total=len(jobs), desc="decode", unit="image"))
        for index, setting in enumerate(new):
            own = values[index * len(self.images) : (index + 1) * len(self.images)]
            self.scores[setting] = np.array(own, np.float64)

    @property
    def best(self) -> Setting:
        """The setting with the highest mean PQ, of equals the one nearest to the default."""
        return self.best_on(np.arange(len(self.images)))

    def best_on(self, chosen: np.ndarray) -> Setting:
        """Return the best setting on some of the images alone, given by their positions."""
        distance = {s: sum(abs(a - b) for a, b in zip(s, DEFAULT, strict=True)) for s in self.scores}
        return max(self.scores, key=lambda s: (_mean(self.scores[s][chosen]), -distance[s]))

    def held_out(self) -> float:
        """Return the mean PQ when each image is decoded with what is best on all others; nan for one image."""
        everything = np.arange(len(self.images))
        if len(everything) < 2:
            return np.nan
        left_out = [self.scores[self.best_on(np.delete(everything, n))][n] for n in everything]
        return _mean(np.array(left_out))

    def decode(self, setting: Setting, image: ValidationImage) -> tuple[np.ndarray, Nuclei]:
        """Return the label map and nuclei of an image."""
        options: DecodeOptions = {
            "normalisation": self.normalisation,
            "nuclei_threshold": setting.nuclei_threshold,
            "marker_threshold": setting.marker_threshold,
            "min_size": setting.min_size,
        }
        return decode(image.maps.nuclei, image.maps.hv, image.maps.types, **options)

    def _score_one(self, setting: Setting, position: int) -> float:
        image = self.images[position]
        maps = image.maps._replace(types=None)  # types do not change which nuclei there are
        label_map, _ = self.decode(setting, ValidationImage(image.name, image.label_map, maps))
        return panoptic_quality(Overlap.of(image.label_map, label_map)).pq


class Detections(NamedTuple):
    """One image decoded: what a smallest area can change.

    Attributes:
        areas: (L,) pixels of each predicted nucleus.
        types: (L,) its type.
        ious: (L,) with the true nucleus that it is matched to, 0 for none.
        num_true: number of true nuclei.
    """

    areas: np.ndarray
    types: np.ndarray
    ious: np.ndarray
    num_true: int


def choose_areas(search: Search, candidates: Sequence[int]) -> tuple[list[int], float]:
    """Choose the smallest nucleus of each type, background first, for the best setting; return it and the mean PQ.

    One type after another, the most frequent first; of equals the smallest area.
    """
    found = [_detect(search, image) for image in search.images]
    num_types = search.images[0].maps.types.shape[0] if search.images[0].maps.types is not None else 1
    counts = np.bincount(np.concatenate([image.types for image in found]), minlength=num_types)
    chosen = np.zeros(num_types, np.int64)
    best = _mean(np.array([_quality(image, chosen) for image in found]))
    for kind in np.argsort(-counts, kind="stable"):
        for area in sorted(candidates):
            trial = chosen.copy()
            trial[kind] = area
            quality = _mean(np.array([_quality(image, trial) for image in found]))
            if quality > best:
                best, chosen = quality, trial
    return chosen.tolist(), best


def _detect(search: Search, image: ValidationImage) -> Detections:
    label_map, nuclei = search.decode(search.best, image)
    overlap = Overlap.of(image.label_map, label_map)
    is_match = overlap.ious > 0.5
    ious = np.zeros(len(nuclei))
    ious[overlap.columns[is_match]] = overlap.ious[is_match]
    types = np.zeros(len(nuclei), np.int64) if nuclei.types is None else nuclei.types
    return Detections(overlap.predicted_areas, types, ious, len(overlap.true_ids))


def _quality(image: Detections, min_areas: np.ndarray) -> float:
    """Return PQ = sum of IoU / (TP + FP / 2 + FN / 2) without the nuclei that are too small; nan without any."""
    stays = image.areas >= min_areas[image.types]
    total = (np.count_nonzero(stays) + image.num_true) / 2
    return float(image.ious[stays].sum() / total) if total else np.nan


def _mean(values: np.ndarray) -> float:
    """Return the mean of what is defined; nan for nothing."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan


def _record(search: Search, patches: str, final: float) -> dict[str, Any]:
    return {
        "patches": str(Path(patches)),
        "images": [image.name for image in search.images],
        "settings_tried": len(search.scores),
        "pq_default": _mean(search.scores[DEFAULT]),
        "pq": final,
        "pq_held_out": search.held_out(),
    }


def _table(search: Search, min_areas: Sequence[int], final: float) -> str:
    ranked = sorted(search.scores, key=lambda setting: -_mean(search.scores[setting]))[:NUM_SHOWN]
    rows = [[*setting, _mean(search.scores[setting])] for setting in ranked]
    rows += [[*DEFAULT, _mean(search.scores[DEFAULT])]]
    headings = ["nuclei_threshold", "marker_threshold", "min_size", "PQ"]
    lines = [
        tabulate(rows, headings, floatfmt=("g", "g", "g", ".4f")) + "  (default)",
        f"with min_areas={list(min_areas)}: PQ {final:.4f}",
        f"each image with the thresholds that are best on all others: PQ {search.held_out():.4f}",
    ]
    return "\n".join(lines)
