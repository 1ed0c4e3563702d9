"""Does stain normalisation help, and does HED jitter? `python -m benchmarks.stain_training`.

Trains the lite network on CoNSeP with neither, either and both, with the same budget and seed, and scores the last
weights of each on the Test images: as they are, each with the stain vectors of another one of them, and each in the
colours of the sample slide, which another laboratory stained and another scanner read. The shifts are Vahadane's and
Reinhard's, the normalisation is Macenko's, so that it does not undo its own arithmetic. Where a network was trained on
normalised patches, each image is normalised by its own stain first, fitted after the shift. A run that was killed
goes on; one that ended is scored again.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmarks.figures import Figure, state
from config.schema import (
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    PhaseSettings,
    StainSettings,
    TrainingRun,
    TrainSettings,
)
from dataloader.patches import PatchStore
from dataloader.slides import open_slide
from dataloader.stain import MacenkoNormalizer, ReinhardNormalizer, StainStatistics, make_normalizer
from dataloader.tissue_pixels import sample_slide
from metrics.detection import radius_at
from models.hovernet.checkpoint import load_checkpoint
from run_utils.devices import resolve_device, resolve_precision
from run_utils.inference.plan import Plan
from run_utils.training.checkpoints import LAST_NAME
from run_utils.training.run import train
from run_utils.training.validation import Validator

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "CMU-1-Small-Region.svs"
STAINS = {
    "neither": StainSettings(),
    "normalisation": StainSettings(method="macenko"),
    "HED jitter": StainSettings(hed_scale=0.2, hed_shift=0.05),
    "both": StainSettings(method="macenko", hed_scale=0.2, hed_shift=0.05),
}
SCORES = ("Dice", "AJI", "PQ", "F_d")

Recolour = Callable[[Any, Sequence[int]], Any]


def main() -> None:
    """Train what is missing, score all, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", default="data/patches/consep", help="patch stores of CoNSeP")
    parser.add_argument("--output", type=Path, default=Path("runs/stain"), help="folder of the four runs")
    parser.add_argument("--epochs", type=int, default=25, help="of 44 steps")
    parser.add_argument("--seed", type=int, default=10, help="of weights, order, warps and colours")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", nargs="*", default=list(STAINS), choices=list(STAINS), help="of the four")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    store = PatchStore(Path(arguments.patches) / "test.zarr")
    rows = []
    for name in arguments.runs:
        stain = STAINS[name]
        run = describe_run(arguments, name, stain)
        train(run)
        for shift, recolour in shifts(store).items():
            scores = score(Path(run.output) / LAST_NAME, store, recolour, stain, arguments.device)
            rows.append([name, shift, *(scores[key] for key in SCORES)])
            logging.info("%s, %s: %s", name, shift, scores)
    print(tabulate(rows, ["trained with", "Test images", *SCORES], tablefmt="github", floatfmt=".3f"))
    state_scores(rows)


def state_scores(rows: Sequence[Sequence[Any]]) -> None:
    """State the PQ of each training and shift beside that of the training with neither."""
    column = 2 + SCORES.index("PQ")
    plain = {row[1]: row[column] for row in rows if row[0] == "neither"}
    for name, shift, *scores in rows:
        if name != "neither":
            what, pq = f"PQ, trained with {name}, Test images: {shift}", scores[column - 2]
            state(Figure(what, pq, "PQ", plain.get(shift), "neither", is_rate=True))


def describe_run(arguments: argparse.Namespace, name: str, stain: StainSettings) -> TrainingRun:
    """Return the settings of one of the four runs: those of `consep_lite`, shorter and on smaller windows."""
    phase = PhaseSettings(
        epochs=arguments.epochs, batch_size=8, learning_rate=2e-3, schedule="cosine", warmup_steps=100
    )
    return TrainingRun(
        data=DataSettings(adapter="consep", root="", patches=arguments.patches),
        model=ModelSettings(name="HoVerNetLite"),
        augmentation=AugmentationSettings(crop="random", degrade=0.5),
        stain=stain,
        train=TrainSettings(
            phases=[phase],
            input_size=256,
            optimizer="adamw",
            weight_decay=1e-4,
            clip_norm=5.0,
            ema_decay=0.99,
            imagenet=False,
            num_workers=1,
            validate_every=arguments.epochs,
        ),
        output=str(arguments.output / name.replace(" ", "_")),
        seed=arguments.seed,
        device=arguments.device,
    )


def shifts(store: PatchStore) -> dict[str, Recolour | None]:
    """Return what is done to the Test images, by name."""
    vahadane = store.stain_statistics("vahadane")
    half = len(vahadane) // 2
    with open_slide(SAMPLE) as slide:
        sample = ReinhardNormalizer().estimate(sample_slide(slide))
    return {
        "as they are": None,
        "another's stain": partial(restain, "vahadane", vahadane, [*vahadane[half:], *vahadane[:half]]),
        "the sample slide's colours": partial(
            restain, "reinhard", store.stain_statistics("reinhard"), [sample] * len(vahadane)
        ),
    }


def restain(
    method: str,
    own: Sequence[StainStatistics],
    wanted: Sequence[StainStatistics],
    images: Any,
    sources: Sequence[int],
) -> Any:
    """Return a batch of one image, its number in `sources`, in the stain that is wanted of it."""
    (number,) = sources
    return make_normalizer(method, wanted[number]).transform(images, own[number])


def score(
    path: Path, store: PatchStore, recolour: Recolour | None, stain: StainSettings, device_name: str
) -> dict[str, float]:
    """Return the scores of a checkpoint on a store's images, shifted, and normalised as in training."""
    network = load_checkpoint(path)
    device = resolve_device(device_name)
    normalizer = MacenkoNormalizer()

    def prepare(images: Any, sources: Sequence[int]) -> Any:
        if recolour is not None:
            images = recolour(images, sources)
        if stain.method == "none":
            return images
        return normalizer.transform(images, normalizer.estimate(images))

    validator = Validator(
        store,
        network.facts.types,
        device=device,
        dtype=resolve_precision("auto", device),
        plan=Plan(decode_workers=2),
        radius=radius_at(store.mpp),
        normalise=prepare,
    )
    report = validator.validate(network.to(device).to(memory_format=torch.channels_last))
    assert report is not None, "this process is the main one"
    return report.scores


if __name__ == "__main__":
    main()
