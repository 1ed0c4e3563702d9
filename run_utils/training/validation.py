"""Validation during training: whole images predicted, decoded and scored, not pixel losses alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dataloader.annotations.base import AnnotatedImage
from dataloader.grid import Box
from dataloader.npy_patches import Patches
from models.hovernet.channels import HORIZONTAL, VERTICAL
from models.hovernet.checkpoint import Network
from models.hovernet.postprocess import decode
from models.nuclei import NucleusType
from run_utils.distributed import ALONE, World
from run_utils.evaluation import Pooling, TypeScheme, report_images
from run_utils.evaluation_report import EvaluationReport
from run_utils.image_nuclei import ImageNuclei
from run_utils.inference.maps import predict_region
from run_utils.inference.pipeline import infer_image
from run_utils.inference.plan import Plan
from run_utils.inference.torch_predictor import TorchPredictor
from run_utils.measuring import MeasuredImage, measure_image
from run_utils.report.build import Pair, make_report
from run_utils.report.content import Report
from run_utils.sides import nuclei_of
from run_utils.training.contact_sheet import hv_to_rgb, outline, stack_panels, types_to_rgb

PANEL_SIDE = 320  # px of the image shown in the log
NUM_EXAMPLES = 5  # best and worst images on the page, each
SCORES = {"PQ": "PQ", "DICE1": "Dice", "AJI": "AJI"}  # what is logged of the instance scores


@dataclass(frozen=True)
class ValidationReport:
    """What a validation found.

    Attributes:
        scores: PQ, Dice and AJI as means over images; with types F_d and F of each type over all nuclei.
        panel: (H, W, 3) uint8 RGB picture of one image's input, truth, prediction and HV maps.
        page: all scores with intervals, and the best and worst images.
        evaluation: the same as plain data, with the scores of each image.
    """

    scores: dict[str, float]
    panel: np.ndarray | None
    page: Report
    evaluation: EvaluationReport


class Validator:
    """Scores a network on the whole images of a patch store, or on lone patches.

    Args:
        store: the validation images, read once and kept.
        types: name and colour of each type, background first; None without types.
        device: where the network runs.
        dtype: number format of the forward pass.
        plan: how images are cut up and decoded.
        radius: farthest distance in pixels between the centroids of a pair.
        normalise: brings (N, H, W, 3) uint8, their numbers in the store given, to the stain that the network sees.
        world: the processes that share the images; each has every so-many-th of them.
    """

    def __init__(
        self,
        store: Patches,
        types: Sequence[NucleusType] | None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        plan: Plan,
        radius: float,
        normalise: Callable[[Any, Sequence[int]], Any] | None = None,
        world: World = ALONE,
    ) -> None:
        self.store = store
        self.types = types
        self.device = device
        self.dtype = dtype
        self.plan = plan
        self.radius = radius
        self.normalise = normalise
        self.world = world

    @cached_property
    def images(self) -> list[AnnotatedImage]:
        """This process's images, put together from their patches, as the network is to see them."""
        numbers = self.world.rows(len(self.store.source_names))
        images = [self.store.read_source(number) for number in numbers]
        if self.normalise is None:
            return images
        return [
            dataclasses.replace(image, image=self.normalise(image.image[None], [number])[0])
            for number, image in zip(numbers, images, strict=True)
        ]

    @cached_property
    def _truths(self) -> list[ImageNuclei]:
        return [nuclei_of(image, image.name) for image in self.images]

    def validate(self, network: Network) -> ValidationReport | None:
        """Predict, decode and score every image; the network is left in eval mode.

        Returns:
            the same whatever the number of processes; None in all but the main one.
        """
        predictor = TorchPredictor(network, self.device, self.dtype)
        mine: dict[str, MeasuredImage] = {}
        pairs: dict[str, Pair] = {}
        for image, truth in zip(self.images, self._truths, strict=True):
            mine[image.name], pair = self._measure(image, truth, predictor)
            if not np.isnan(_quality(mine[image.name])):
                pairs[image.name] = pair
                _keep_extremes(pairs, mine)
        measured = dict(self.world.collect(list(mine.items())))
        pairs = self._collect_pairs(pairs, measured)
        return self._report(measured, pairs, predictor) if self.world.is_main else None

    @property
    def _type_names(self) -> list[str]:
        return [] if self.types is None else [kind.name for kind in self.types]

    @property
    def _mode(self) -> str:
        return "all" if self._type_names else "instance"

    def _measure(
        self, image: AnnotatedImage, truth: ImageNuclei, predictor: TorchPredictor
    ) -> tuple[MeasuredImage, Pair]:
        """Return what an image's scores are counted from, and its true and predicted label maps."""
        label_map, nuclei = infer_image(_reader(image), image.label_map.shape, predictor, self.plan)
        found = ImageNuclei(
            "the prediction",
            label_map,
            ids=nuclei.ids.astype(np.int64),
            types=nuclei.types,
            centroids=nuclei.centroids,
        )
        scheme = TypeScheme(self._type_names)
        measured = measure_image(truth, found, mode=self._mode, radius=self.radius, scheme=scheme)
        return measured, Pair(image.label_map, label_map, image.image)

    def _collect_pairs(
        self, pairs: dict[str, Pair], measured: Mapping[str, MeasuredImage]
    ) -> dict[str, Pair]:
        """Return in the main process the pairs, of all that processes have kept, that the page can show."""
        if not self.world.is_shared:
            return pairs
        ranked = sorted(
            (name for name, one in measured.items() if not np.isnan(_quality(one))),
            key=lambda name: _quality(measured[name]),
        )
        shown = set(self.world.broadcast([*ranked[:NUM_EXAMPLES], *ranked[-NUM_EXAMPLES:]]))
        shares = self.world.gather({name: pair for name, pair in pairs.items() if name in shown})
        return {name: pair for share in shares for name, pair in share.items()}

    def _report(
        self,
        measured: Mapping[str, MeasuredImage],
        pairs: Mapping[str, Pair],
        predictor: TorchPredictor,
    ) -> ValidationReport:
        names = self._type_names
        pooling = Pooling()
        evaluation = report_images(measured, self._mode, names, pooling)
        overall = {SCORES.get(name, name): score for name, score in evaluation.overall.items()}
        scores = {name: overall[name] for name in (*SCORES.values(), *_typed_names(names))}
        page = make_report(
            evaluation,
            title="Validation",
            facts={},
            num_resamples=pooling.num_resamples,
            read_pair=pairs.get,
            num_examples=NUM_EXAMPLES,
        )
        return ValidationReport(scores, self._draw(predictor), page, evaluation)

    def _draw(self, predictor: TorchPredictor) -> np.ndarray:
        """Draw input, truth, prediction and HV maps of the first image's centre."""
        image = self.images[0]
        box = _centre_box(image.label_map.shape, PANEL_SIDE)
        maps = predict_region(_reader(image), image.label_map.shape, box, predictor, self.plan)
        label_map, nuclei = decode(maps.nuclei, maps.hv, maps.types, **self.plan.decoding)
        pixels, truth = _cut(image.image, box), _cut(image.label_map, box)
        panels = [
            pixels,
            outline(pixels, truth),
            outline(pixels, label_map),
            hv_to_rgb(maps.hv[HORIZONTAL]),
            hv_to_rgb(maps.hv[VERTICAL]),
        ]
        headings = ["Input", "Truth", "Prediction", "Horizontal map", "Vertical map"]
        if self.types is not None and image.type_map is not None and nuclei.types is not None:
            colours = [kind.colour for kind in self.types]
            of_nucleus = np.concatenate([[0], nuclei.types])
            panels += [types_to_rgb(_cut(image.type_map, box), colours)]
            panels += [types_to_rgb(of_nucleus[label_map], colours)]
            headings += ["True types", "Predicted types"]
        return stack_panels([panels], headings)


def _typed_names(type_names: Sequence[str]) -> list[str]:
    return ["F_d", "accuracy", *(f"F_{name}" for name in type_names[1:])] if type_names else []


def _keep_extremes(pairs: dict[str, Pair], measured: Mapping[str, MeasuredImage]) -> None:
    """Forget the image in the middle by PQ where there are more than a page shows: label maps take memory.

    The page shows no image without a PQ, so ``pairs`` holds none.
    """
    if len(pairs) > 2 * NUM_EXAMPLES:
        ranked = sorted(pairs, key=lambda name: _quality(measured[name]))
        del pairs[ranked[len(ranked) // 2]]


def _quality(measured: MeasuredImage) -> float:
    return (measured.scores or {})["PQ"]


def _reader(image: AnnotatedImage) -> Callable[[Box], np.ndarray]:
    return lambda box_yxyx: _cut(image.image, box_yxyx)


def _cut(array: np.ndarray, box_yxyx: Box) -> np.ndarray:
    return array[box_yxyx[0] : box_yxyx[2], box_yxyx[1] : box_yxyx[3]]


def _centre_box(shape: tuple[int, ...], side: int) -> Box:
    top, left = (max((size - side) // 2, 0) for size in shape)
    return top, left, min(top + side, shape[0]), min(left + side, shape[1])
