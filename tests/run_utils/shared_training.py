"""What processes do to be compared with one that does it alone: `torchrun shared_training.py PATCHES FOLDER`."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import run_train
from benchmarks.training import compose_run
from dataloader.annotations import AnnotatedImage
from models.hovernet.checkpoint import load_checkpoint
from run_utils.build import build_training
from run_utils.distributed import ALONE, World, start_world
from run_utils.entry import run_command
from run_utils.inference.plan import Plan
from run_utils.training.trainer import Trainer
from run_utils.training.validation import Validator
from tests.conftest import ROOT
from tests.drawing import draw_pairs, paint_tissue

NUM_IMAGES = 5  # for validation; an odd number, so that the processes' shares differ
START = "start.pt"  # in the folder: a network to start from
TINY = [
    "model=lite", "model.num_stages=2", "model.decoder_channels=[8]", "model.margin=0", "device=cpu",
    "augmentation=random_crop", "stain.hed_scale=0.2", "stain.hed_shift=0.05", "train.input_size=64",
    "train.precision=fp32", "train.num_workers=0",
]  # fmt: skip
ONE_STEP = [
    *TINY,
    "train.max_steps=1",
    "train.phases=[{epochs: 1, batch_size: 3}]",
]  # of two processes one has 2 of 3
STEPS = {
    "one batch": ["train.class_weights=[0,1,2,1,3]"],
    "two batches": ["train.accumulate=2", "train.focal_gamma=2", "train.checkpoint_gradients=true"],
    "frozen encoder": [
        "train.phases=[{epochs: 1, batch_size: 3, freeze_encoder: true}, {epochs: 1, batch_size: 3}]"
    ],  # thawed in the second phase, of which are the gradients
    "own statistics": ["train.sync_batch_norm=false"],
}
TRAINING = [
    *TINY, "train.max_steps=2", "train.validate_every=2", "train.checkpoint_every=1", "train.ema_decay=0.9",
    "train.phases=[{epochs: 8, batch_size: 3, learning_rate: 0.001, schedule: cosine, warmup_steps: 3}]",
]  # fmt: skip


def take_step(name: str, patches: Path, folder: Path, world: World = ALONE) -> dict[str, Any]:
    """Return gradients, mean losses and batch-norm statistics at the end of the last step; no weight moves.

    In double precision: in single, a ReLU's input that another order of sums carries across 0 is seen in gradients.
    """
    output = folder / f"{name} by {world.size}"
    run = compose_run(*ONE_STEP, *STEPS[name], f"data.patches={patches}", f"output={output}")
    if run.train.phases[0].freeze_encoder:
        run.train.start_from = str(folder / START)
    parts = build_training(run, world)
    parts.network.double()
    parts.validator = None
    trainer = Trainer(parts, run)
    found: dict[str, Any] = {}

    def keep_gradients(rate: float) -> None:
        weights = trainer.network.named_parameters()
        found["gradients"] = {key: weight.grad.clone() for key, weight in weights if weight.grad is not None}
        found["losses"] = trainer.losses.means()
        found["statistics"] = {key: values.clone() for key, values in trainer.network.named_buffers()}
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.progress.step += 1

    trainer._step = keep_gradients  # type: ignore[method-assign]
    trainer.train()
    return {**found, "patches": trainer.usage.patches}


def validate(world: World = ALONE) -> dict[str, Any] | None:
    """Return what a validation of drawn images found, one without nuclei; None in all but the main process."""
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


@contextmanager
def holding_free_port() -> Iterator[int]:
    """Give a port of this machine that nobody listens at, and that no other is given while the block runs."""
    with socket.socket() as held:
        held.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # torch sets it too, and may so listen there
        held.bind(("localhost", 0))
        yield int(held.getsockname()[1])


def main() -> None:
    """Take the steps and validate in every process, write what each found, then train on until something happens."""
    torch.set_num_threads(1)
    patches, folder = map(Path, sys.argv[1:])
    with holding_free_port() as free_port:
        with start_world(torch.device("cpu")) as world:
            for name in STEPS:
                torch.save(take_step(name, patches, folder, world), folder / f"{name}.{world.rank}.pt")
            report = validate(world)
            if report is not None:
                torch.save(report, folder / f"validation.{world.rank}.pt")
            port = world.broadcast(free_port)
        # They meet anew elsewhere: torchrun's store still holds where they were found the first time.
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": str(port)}
        sys.argv[1:] = [*TRAINING, f"data.patches={patches}", f"output={folder / 'broken'}"]
        run_command("train", run_train.main)


if __name__ == "__main__":
    main()
