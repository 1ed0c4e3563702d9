"""Training, patches a second through loader, transforms and step: `python -m benchmarks.training`.

On a CPU the lite network with the settings of `experiment=consep_lite` (bf16 where the CPU computes in it, channels
last, averaged weights, clipped gradients) against a plain loop: fp32, contiguous, without the last two; network,
patches, colours, targets, loss and optimiser are the same, and so are the loader's processes. On a GPU the `fast`
network as `experiment=consep_fast` trains it, all of it and batches of 16, in the ways that settings offer; the plain
loop too. The patches are drawn. Sides take turns; a repeat is an epoch after one that is not counted; figures are
medians. The CPU time a patch takes, of all processes and with the start of each side, depends less on what else the
machine does. Stages are of the last repeat.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import hydra
import numpy as np
import torch
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from benchmarks.figures import Figure, state
from benchmarks.loader import cpu_seconds
from benchmarks.synthetic_slide import TYPES, DrawnSlide, paint
from config.schema import PhaseSettings, TrainingRun
from dataloader.annotations import AnnotatedImage
from dataloader.memory import keep_freed_memory
from dataloader.patches import PatchSettings, prepare_store, write_patches
from run_utils.build import build_training
from run_utils.devices import resolve_device
from run_utils.entry import CONFIG_DIR
from run_utils.profiling import format_stages
from run_utils.settings_help import SETTINGS
from run_utils.training.batches import draw_batches
from run_utils.training.parts import TrainingParts
from run_utils.training.throughput import (
    BACKWARD,
    FORWARD,
    LOSS,
    OPTIMIZER,
    TRANSFORMS,
    WAIT,
    ThroughputMeter,
    Usage,
)
from run_utils.training.trainer import OPTIMIZERS, Trainer

IMAGE_SIDE, NUM_NUCLEI = 1024, 600  # pixels; nuclei an image, as CoNSeP has
PATCHES_PER_IMAGE = 16  # of 540 px, one every 256
NUM_EPOCHS = 2  # of a repeat; the last counts
PLAIN, OURS = "plain loop", "ours"
WAY = "a plain fp32 loop"
PLAIN_SETTINGS = (
    "train.precision=fp32",
    "train.channels_last=false",
    "train.ema_decay=0",
    "train.clip_norm=0",
)


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        network: its name.
        settings: of the run, as for `run_train.py`.
        batch_size: patches a step.
        steps: of an epoch.
        asked: what our rate was to be.
        is_gpu: whether a GPU trains.
    """

    network: str
    settings: tuple[str, ...]
    batch_size: int
    steps: int
    asked: str
    is_gpu: bool = False

    @staticmethod
    def of(device: str, steps: int | None) -> Plan:
        """Return the plan for a device, `auto` for a GPU where there is one."""
        if resolve_device(device).type == "cuda":
            settings = ("experiment=consep_fast", f"device={device}")
            return Plan("`fast`", settings, 16, steps or 40, "250 patches/s on an H200", is_gpu=True)
        settings = ("experiment=consep_lite", f"device={device}")
        return Plan("the lite model", settings, 8, steps or 6, "at least 1.3 times")

    @property
    def num_patches(self) -> int:
        """Patches of an epoch."""
        return self.batch_size * self.steps

    def describe(self, *settings: str) -> TrainingRun:
        """Return the settings of a run of a warm-up and an epoch that counts; of the whole network, in one phase."""
        run = compose_run(*self.settings, *settings)
        rate = run.train.phases[-1].learning_rate
        run.train.phases = [PhaseSettings(epochs=NUM_EPOCHS, batch_size=self.batch_size, learning_rate=rate)]
        run.train.max_steps, run.train.imagenet = self.steps, False
        return run


@dataclass(frozen=True)
class Result:
    """What a repeat of one side took.

    Attributes:
        usage: patches, seconds and stages of the epoch that counts.
        memory: bytes that the GPU's tensors took at most; 0 on a CPU.
        cpu_ms: ms of CPU for each patch of both epochs.
    """

    usage: Usage
    memory: int = 0
    cpu_ms: float = 0.0


def main() -> None:
    """Measure all sides, and print a line and a table of stages for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--steps", type=int, help="of an epoch; 6 on a CPU, 60 on a GPU")
    parser.add_argument("--repeats", type=int, default=3, help="epochs that a median is of")
    parser.add_argument(
        "--threads",
        type=int,
        help="of torch; 1 where the machine does other work too, for which several wait",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    logging.basicConfig(level=logging.ERROR)
    keep_freed_memory()  # as training does, here for both sides
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    plan = Plan.of(arguments.device, arguments.steps)
    with tempfile.TemporaryDirectory() as folder:
        draw_patches(Path(folder) / "train.zarr", plan.num_patches)
        sides = make_sides(plan, Path(folder))
        results: dict[str, list[Result]] = {name: [] for name in sides}
        for _ in range(arguments.repeats):
            for name, run_epochs in sides.items():
                before = cpu_seconds()
                result = run_epochs()
                spent = 1000 * (cpu_seconds() - before) / (NUM_EPOCHS * result.usage.patches)
                results[name].append(replace(result, cpu_ms=spent))
    print(
        f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads; medians of {arguments.repeats} epochs "
        f"of {plan.steps} steps"
    )
    for name in sides:
        print_side(plan, name, results)


def print_side(plan: Plan, name: str, results: dict[str, list[Result]]) -> None:
    """State the rate of a side and the CPU time of a patch, beside the plain loop's, and print its stages."""
    rate, plain_rate = (
        _median(results[side], lambda r: r.usage.patches_per_second) for side in (name, PLAIN)
    )
    cost, plain_cost = (_median(results[side], lambda r: r.cpu_ms) for side in (name, PLAIN))
    last = results[name][-1]
    if name != PLAIN:
        what = f"training {plan.network}{name.removeprefix(OURS)}"
        asked = plan.asked if name == OURS else ""
        state(Figure(what, rate, "patches/s", plain_rate, WAY, is_rate=True, asked=asked))
        state(Figure(f"{what}, CPU time", cost, "ms a patch", plain_cost, WAY))
    memory = f"; {last.memory / 2**30:.1f} GiB on the GPU" if last.memory else ""
    print(f"{name}: {last.usage}{memory}")
    scale = 1000 / last.usage.patches
    print(format_stages(last.usage.stages, last.usage.seconds, unit="ms a patch", scale=scale) + "\n")


def _median(epochs: Sequence[Result], value: Callable[[Result], float]) -> float:
    return statistics.median(value(result) for result in epochs)


def make_sides(plan: Plan, folder: Path) -> dict[str, Callable[[], Result]]:
    """Return what is compared, by name: functions that train two epochs and tell of the second."""

    def describe(*settings: str) -> TrainingRun:
        return plan.describe(f"data.patches={folder}", *settings)

    sides: dict[str, Callable[[], Result]] = {
        PLAIN: lambda: measure_plain(describe(*PLAIN_SETTINGS), plan.steps),
        OURS: lambda: measure_ours(describe()),
    }
    if plan.is_gpu:
        sides[f"{OURS}, compiled"] = lambda: measure_ours(describe("train.compile=true"))
        sides[f"{OURS}, checkpointed"] = lambda: measure_ours(describe("train.checkpoint_gradients=true"))
    return sides


def compose_run(*settings: str) -> TrainingRun:
    """Return the settings that `run_train.py` would run with."""
    for key, node in SETTINGS.items():
        ConfigStore.instance().store(group="schema", name=key, node=node, package="_global_")
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base=None):
        composed = OmegaConf.to_object(hydra.compose("train", list(settings)))
    assert isinstance(composed, TrainingRun)
    return composed


def measure_ours(run: TrainingRun) -> Result:
    """Train as `run_train.py` does, without validation."""
    with tempfile.TemporaryDirectory() as folder:
        run.output = folder
        parts = build_training(run)
        parts.validator = None
        _forget_peak(parts.device)
        trainer = Trainer(parts, run)
        trainer.train()
    return Result(trainer.usage, _peak(parts.device))


def measure_plain(run: TrainingRun, steps: int) -> Result:
    """Train in the loop that one writes first: fp32, as the framework lays things out."""
    parts = build_training(run)
    _forget_peak(parts.device)
    phase = run.train.phases[0]
    order = draw_batches(
        parts.num_patches,
        phase.batch_size,
        seed=run.seed,
        epochs=range(NUM_EPOCHS),
        num_batches=steps,
        start=0,
    )
    loader = iter(
        DataLoader(
            parts.patches,
            batch_sampler=order,  # type: ignore[arg-type]
            num_workers=parts.num_workers,
            pin_memory=parts.device.type == "cuda",
        )
    )
    optimizer = OPTIMIZERS[run.train.optimizer](
        parts.network.parameters(), lr=phase.learning_rate, weight_decay=run.train.weight_decay
    )
    meter = ThroughputMeter(parts.device)
    before = Usage()
    parts.network.train()
    for epoch in range(NUM_EPOCHS):
        before = meter.read()
        with meter.running():
            for step in range(steps):
                take_plain_step(parts, loader, optimizer, meter, seed=epoch * steps + step)
    return Result(meter.read() - before, _peak(parts.device))


def take_plain_step(
    parts: TrainingParts,
    loader: object,
    optimizer: torch.optim.Optimizer,
    meter: ThroughputMeter,
    *,
    seed: int,
) -> None:
    """Take one step of the plain loop."""
    with meter.stage(WAIT):
        batch = next(loader)  # type: ignore[call-overload]
    with meter.stage(TRANSFORMS):
        images, targets = parts.transforms(batch, seed)
    with meter.stage(FORWARD):
        maps = parts.network(images)
    with meter.stage(LOSS):
        total, _ = parts.loss(maps, targets)
    with meter.stage(BACKWARD):
        total.backward()
    with meter.stage(OPTIMIZER):
        optimizer.step()
        optimizer.zero_grad()
    meter.add(len(images))


def draw_patches(path: Path, num_patches: int) -> None:
    """Write a store of at least so many patches of drawn tissue, nuclei as dense as CoNSeP's, with types."""
    images = [draw_image(seed) for seed in range(math.ceil(num_patches / PATCHES_PER_IMAGE))]
    settings = PatchSettings(class_names=tuple(kind.name for kind in TYPES), adapter="consep")
    prepare_store(path, settings, [image.name for image in images])
    write_patches(path, images)


def draw_image(seed: int) -> AnnotatedImage:
    """Return a drawn image with its label map and type map."""
    drawn = DrawnSlide.draw(NUM_NUCLEI, IMAGE_SIDE, seed)
    label_map = np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.int32)
    is_there = drawn.types > 0
    centres, shapes = drawn.centres[is_there], drawn.shapes[is_there]
    for number, (centre, shape) in enumerate(zip(centres, shapes, strict=True), start=1):
        cv2.fillPoly(label_map, [(drawn.contours[shape] + centre)[:, ::-1]], number)
    type_map = np.concatenate([[0], drawn.types[is_there]])[label_map].astype(np.uint8)
    image = paint(drawn, (0, 0, IMAGE_SIDE, IMAGE_SIDE), 1)
    return AnnotatedImage(f"drawn_{seed}", image, label_map, type_map)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


if __name__ == "__main__":
    main()
