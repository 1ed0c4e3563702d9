"""Print what faster arithmetic costs in PQ on CoNSeP's validation images: ``python -m benchmarks.precision``.

The same weights predict the same images as trained, in fp32; fused; in bf16; with small maps; and by each engine that
is installed. Cut the patches with ``extract_patches.py`` first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from benchmarks.figures import Figure, state
from dataloader.annotations import AnnotatedImage
from dataloader.patches import PatchStore
from metrics.overlap import Overlap
from metrics.segmentation import panoptic_quality
from models.hovernet.checkpoint import load_checkpoint
from run_utils.build_inference import PREDICTORS, Engine
from run_utils.devices import resolve_device, resolve_precision
from run_utils.evaluation import score_pair
from run_utils.inference.pipeline import infer_image
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import OverlappingPredictor, Predictor
from run_utils.inference.torch_predictor import TorchPredictor

OVERLAP = 160  # px
ASKED_LOSS = 0.002  # of PQ


def main() -> None:
    """Print mean PQ, its loss against fp32, and the PQ between both predictions, for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="samples/hovernet_lite_consep.pt")
    parser.add_argument("--patches", default="data/patches/consep")
    arguments = parser.parse_args()
    store = PatchStore(Path(arguments.patches) / "validation.zarr")
    images = [store.read_source(number) for number in range(len(store.source_names))]
    rows: list[tuple[str, float, float, float]] = []
    first: list[np.ndarray] = []
    for name, predictor in _predictors(arguments.checkpoint):
        found = [_find(image, OverlappingPredictor(predictor, OVERLAP)) for image in images]
        first = first or found
        quality = _mean(
            [score_pair(image.label_map, labels)["PQ"] for image, labels in zip(images, found, strict=True)]
        )
        agreement = _mean([panoptic_quality(Overlap.of(a, b))[2] for a, b in zip(first, found, strict=True)])
        rows.append((name, quality, rows[0][1] - quality if rows else 0.0, agreement))
    print(tabulate(rows, ["way", "PQ", "loss", "PQ between it and fp32"], floatfmt=".4f"))
    for name, _, loss, _ in rows[1:]:
        state(Figure(f"loss of PQ, {name}", loss, "", asked=f"at most {ASKED_LOSS}"))


def _predictors(checkpoint: str) -> Iterator[tuple[str, Predictor]]:
    device = resolve_device("auto")
    fast = resolve_precision("auto", device)
    yield "fp32, as trained", TorchPredictor(load_checkpoint(checkpoint), device, torch.float32)
    ways = {
        "fp32, fused": ("torch", torch.float32, False),
        "fp32, fused, small maps": ("torch", torch.float32, True),
        "bf16, fused": ("torch", fast, False),
        "bf16, fused, small maps": ("torch", fast, True),
        "openvino, bf16": ("openvino", fast, False),
        "onnxruntime, fp32": ("onnxruntime", torch.float32, False),
    }
    for name, (engine, dtype, is_small) in ways.items():
        try:
            yield name, PREDICTORS[engine](load_checkpoint(checkpoint), Engine(device, dtype, is_small))
        except ValueError as error:  # not installed, or not for this device
            print(f"{name}: left out: {error}")


def _find(image: AnnotatedImage, predictor: Predictor) -> np.ndarray:
    height, width = image.label_map.shape
    read = lambda box: image.image[box[0] : box[2], box[1] : box[3]]  # noqa: E731
    return infer_image(read, (height, width), predictor, Plan())[0]


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


if __name__ == "__main__":
    main()
