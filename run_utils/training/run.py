"""What `run_train.py` does: train, or show what would be trained on."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import torch
from torch.utils.data import default_collate

from config.schema import TrainingRun
from dataloader.memory import keep_freed_memory
from run_utils.build import build_training
from run_utils.devices import resolve_device
from run_utils.distributed import start_world
from run_utils.entry import save_settings
from run_utils.provenance import write_provenance
from run_utils.training.checkpoints import STATE_NAME
from run_utils.training.contact_sheet import write_contact_sheet
from run_utils.training.hparams import write_hparams
from run_utils.training.parts import TrainingParts
from run_utils.training.record import FAILURE_NAME, name_scores, occupying, read_scores
from run_utils.training.run_folder import TENSORBOARD_DIR
from run_utils.training.trainer import Trainer

logger = logging.getLogger(__name__)

NUM_VIEWED = 8  # patches on a contact sheet
SHEET_NAME = "contact_sheet.png"


def train(run: TrainingRun) -> None:
    """Train a network into `run.output`, or resume; with `view`, write a contact sheet instead.

    Where torchrun has started several processes, they share the work, and the main one writes.

    Raises:
        ConnectionError: where one of several processes is lost.
        ValueError: where another run trains into the same folder.
    """
    torch.set_float32_matmul_precision("high")
    # patches are of one size: the fastest convolutions are worth finding
    torch.backends.cudnn.benchmark = True
    keep_freed_memory()
    with start_world(resolve_device(run.device)) as world:
        parts = build_training(run, world)  # first: what is refused leaves no folder
        with occupying(Path(run.output)) if world.is_main else contextlib.nullcontext():
            _train(parts, run)


def _train(parts: TrainingParts, run: TrainingRun) -> None:
    world, output_dir = parts.world, Path(run.output)
    if world.is_main:
        (output_dir / FAILURE_NAME).unlink(missing_ok=True)  # of an earlier attempt
    if run.view:
        if world.is_main:
            view(parts, run)
        return
    trainer = Trainer(parts, run)
    if world.is_main and not (output_dir / STATE_NAME).is_file():
        save_settings(run, output_dir / "settings.yaml")
        write_provenance(output_dir / "run.json", seed=run.seed)
    count = sum(parameter.numel() for parameter in parts.network.parameters())
    where = f"{str(parts.dtype).removeprefix('torch.')} on {parts.device}"
    if world.is_shared:
        where += f", {world.size} processes"
    logger.info("%s: %s parameters, %d patches, %s", run.model.name, f"{count:,}", parts.num_patches, where)
    progress = trainer.train()
    best = read_scores(output_dir) if world.is_main else {}
    if best:
        write_hparams(output_dir / TENSORBOARD_DIR, run, name_scores(best), best["step"])
    logger.info("%s: done after %d steps, best PQ %.4f", output_dir, progress.step, progress.best_score)


def view(parts: TrainingParts, run: TrainingRun) -> None:
    """Write a contact sheet of patches, stage by stage, and of their targets as the network would get them."""
    order = torch.Generator().manual_seed(run.seed)
    chosen = torch.randperm(parts.num_patches, generator=order)[:NUM_VIEWED].tolist()
    batch = default_collate([parts.patches[index] for index in chosen])
    images, targets = parts.transforms(batch, run.seed)
    *before, _ = parts.transforms.stage_images(batch, run.seed)
    types = parts.facts["types"] or ()
    path = Path(run.output) / SHEET_NAME
    names, colours = [kind.name for kind in types], [kind.colour for kind in types]
    write_contact_sheet(path, images, targets, type_names=names, type_colours=colours, before=before)
    logger.info("wrote %s", path)
