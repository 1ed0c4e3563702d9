"""What several processes, and one beside them, do to be compared: `torchrun shared_training.py RUNS.pt FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from config.schema import TrainingRun
from dataloader.annotations import AnnotatedImage
from models.hovernet.checkpoint import load_checkpoint
from run_utils.build import build_training
from run_utils.distributed import ALONE, World, start_world
from run_utils.inference.plan import Plan
from run_utils.training.trainer import Trainer
from run_utils.training.validation import Validator
from tests.conftest import ROOT
from tests.drawing import draw_pairs, paint_tissue

NUM_IMAGES = 5  # for validation; an odd number, so that the processes' shares differ


def take_step(run: TrainingRun, world: World = ALONE) -> dict[str, Any]:
    """Return gradients, mean losses and batch-norm statistics at the end of a run's only step; no weight moves.

    In double precision: in single, a ReLU's input that another order of sums carries across 0 is seen in gradients.
    """
    parts = build_training(run, world)
    parts.network.double()
    parts.validator = None
    trainer = Trainer(parts, run)
    found: dict[str, Any] = {}

    def keep_gradients(rate: float) -> None:
        weights = dict(trainer.network.named_parameters())
        found["gradients"] = {
            name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None
        }
        found["losses"] = trainer.losses.means()
        found["statistics"] = {name: values.clone() for name, values in trainer.network.named_buffers()}
        trainer.progress.step += 1

    trainer._step = keep_gradients  # type: ignore[method-assign]
    trainer.train()
    return {**found, "patches": trainer.usage.patches}


def validate(world: World = ALONE) -> dict[str, Any] | None:
    """Return all that a validation of drawn images found, one of them without nuclei; None beside the main process."""
    images = []
    for number in range(NUM_IMAGES):
        label_map = draw_pairs((96, 144), seed=number) * (number != 1)
        type_map = np.where(label_map > 0, 1 + label_map % 4, 0).astype(np.uint8)
        images.append(AnnotatedImage(f"image_{number}", paint_tissue(label_map), label_map, type_map))
    store = SimpleNamespace(source_names=[image.name for image in images], read_source=images.__getitem__)
    network = load_checkpoint(ROOT / "samples" / "hovernet_lite_consep.pt")
    validator = Validator(
        store,  # type: ignore[arg-type]
        network.facts.types,
        device=torch.device("cpu"),
        dtype=torch.float32,
        plan=Plan(window=160),
        radius=12,
        world=world,
    )
    report = validator.validate(network)
    if report is None:
        return None
    shown = [(one.name, one.true.tolist()) for one in (*report.page.best, *report.page.worst)]
    return {"scores": report.scores, "evaluation": report.evaluation.to_dict(), "shown": shown}


def main() -> None:
    """Do all of it in every process, and write what the main one found."""
    torch.set_num_threads(1)
    runs, folder = torch.load(sys.argv[1], weights_only=False), Path(sys.argv[2])
    with start_world(torch.device("cpu")) as world:
        for name, run in runs.items():
            found = take_step(run, world)
            torch.save(found, folder / f"{name}.{world.rank}.pt")
        report = validate(world)
        assert (report is None) == (world.rank > 0)
        if report is not None:
            torch.save(report, folder / "validation.pt")


if __name__ == "__main__":
    main()
