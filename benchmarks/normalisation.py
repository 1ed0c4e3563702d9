"""Window-free decoding beside the reference's min-max, by PQ on CoNSeP validation images, maps predicted once.

Run: ``python -m benchmarks.normalisation [--checkpoint FILE] [--patches DIR]`` after ``extract_patches.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks.figures import Figure, state
from dataloader.annotations import AnnotatedImage
from dataloader.patches import PatchStore
from models.hovernet.checkpoint import load_checkpoint
from models.hovernet.postprocess import GRADIENT_RANGE, decode
from run_utils.devices import resolve_device, resolve_precision
from run_utils.evaluation import score_pair
from run_utils.inference.maps import predict_region
from run_utils.inference.plan import DecodeOptions, Plan
from run_utils.inference.predictors import Predictor, ProbabilityMaps
from run_utils.inference.torch_predictor import TorchPredictor

RANGES = [(-0.28, high) for high in (0.11, 0.13, 0.15, 0.17, 0.19)] + [(-0.22, 0.15), (-0.34, 0.2)]


def main() -> None:
    """Print mean PQ for each way of decoding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="samples/hovernet_lite_consep.pt")
    parser.add_argument("--patches", default="data/patches/consep")
    arguments = parser.parse_args()
    device = resolve_device("auto")
    predictor = TorchPredictor(
        load_checkpoint(arguments.checkpoint), device, resolve_precision("auto", device)
    )
    store = PatchStore(Path(arguments.patches) / "validation.zarr")
    images = [store.read_source(number) for number in range(len(store.source_names))]
    maps = [predict(image, predictor) for image in images]
    ways: dict[str, DecodeOptions] = {"reference": {"normalisation": "reference"}}
    ways |= {f"window_free {low} {high}": {"gradient_range": (low, high)} for low, high in RANGES}
    rows = [(name, mean_pq(images, maps, options)) for name, options in ways.items()]
    print(tabulate(rows, ["decoding", "PQ"], floatfmt=".4f"))
    default = f"window_free {GRADIENT_RANGE[0]} {GRADIENT_RANGE[1]}"
    print(f"the default is {default}; {len(images)} images")
    scores = dict(rows)
    what = f"PQ on CoNSeP's {len(images)} validation images, window_free decoding"
    way = "reference decoding"
    state(
        Figure(what, scores[default], "PQ", scores["reference"], way, is_rate=True, asked="at least 1 times")
    )


def predict(image: AnnotatedImage, predictor: Predictor) -> ProbabilityMaps:
    """Return the maps of a whole image."""
    shape = (image.image.shape[0], image.image.shape[1])
    return predict_region(
        lambda box: image.image[box[0] : box[2], box[1] : box[3]], shape, (0, 0, *shape), predictor, Plan()
    )


def mean_pq(images: list[AnnotatedImage], maps: list[ProbabilityMaps], options: DecodeOptions) -> float:
    """Return the mean PQ of the images decoded one way."""
    found = (decode(part.nuclei, part.hv, part.types, **options)[0] for part in maps)
    pairs = zip(images, found, strict=True)
    return float(np.mean([score_pair(image.label_map, label_map)["PQ"] for image, label_map in pairs]))


if __name__ == "__main__":
    main()
