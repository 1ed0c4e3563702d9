"""The training loop: phases, epochs, steps, read from top to bottom."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from config.schema import PhaseSettings, TrainingRun
from models.hovernet.checkpoint import Network, save_checkpoint
from run_utils.devices import describe_device
from run_utils.report.page import write_page
from run_utils.training.batches import draw_batches
from run_utils.training.checkpoints import BEST_NAME, LAST_NAME, STATE_NAME, Progress, load_state, save_state
from run_utils.training.device_transforms import DeviceTransforms
from run_utils.training.forward import make_forward
from run_utils.training.loss_meter import LossMeter
from run_utils.training.record import RunRecord, write_scores
from run_utils.training.schedule import learning_rate_at
from run_utils.training.step_profile import StepProfile, profile_steps
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
from run_utils.training.tracking import Tracker
from run_utils.training.validation import Validator

logger = logging.getLogger(__name__)

PAGE_NAME = "validation.html"
PROFILE_DIR = "profile"
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}

Batch = Mapping[str, Tensor]
Weights = tuple[Tensor, ...] | list[Tensor]
Loss = Callable[..., tuple[Tensor, Mapping[str, Tensor]]]


@dataclass
class TrainingParts:
    """What the loop works with; `run_utils.build` puts it together.

    Attributes:
        network: gives HoverMaps; already on its device.
        patches: items named `epoch * len + patch`.
        num_patches: patches in an epoch.
        transforms: batch to images and targets, on the device.
        loss: maps and targets to the total and its named terms.
        validator: scores a network on whole images; None trains without validation.
        device: of network, transforms and loss.
        dtype: number format of the forward pass.
        num_workers: processes that read patches.
        patch_weights: (num_patches,) how often each patch is drawn; None draws each once an epoch.
        facts: what the saved network should know: `types`, `mpp`, `stain` and notes.
    """

    network: Network
    patches: Dataset[Batch]
    num_patches: int
    transforms: DeviceTransforms
    loss: Loss
    validator: Validator | None
    device: torch.device
    dtype: torch.dtype
    num_workers: int
    patch_weights: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Trainer:
    """A run: trains, validates, keeps the best network, and goes on where a killed run stopped.

    Args:
        parts: what to train, and on what.
        run: the run's settings.

    Attributes:
        usage: what the last epoch took.

    Raises:
        ValueError: where the output folder holds a run with other settings.
    """

    def __init__(self, parts: TrainingParts, run: TrainingRun) -> None:
        self.parts = parts
        self.run = run
        self.settings = run.train
        self.network = parts.network
        self.forward = make_forward(parts.network, run.train)
        self.average = self._make_average()
        self.scaler = torch.amp.GradScaler(parts.device.type, enabled=parts.dtype == torch.float16)
        self.output_dir = Path(run.output)
        self.progress = Progress()
        self.optimizer = self._make_optimizer()
        self.losses = LossMeter()
        self.meter = ThroughputMeter(parts.device)
        self.usage = self.logged = Usage()
        self.profile: StepProfile | None = None
        self._resume()
        self.record = RunRecord(
            self.output_dir,
            num_phases=len(run.train.phases),
            num_patches=parts.num_patches,
            device=describe_device(parts.device),
            resumes=self.progress.step > 0,
        )
        self.tracker = Tracker(self.output_dir / "tensorboard", self.progress.step)

    def train(self) -> Progress:
        """Run every phase that is left; return where the run ended.

        Raises:
            FloatingPointError: when a loss term stops being finite; the last good state stays on disk.
        """
        folder = self.output_dir / PROFILE_DIR if self.run.profile else None
        try:
            with profile_steps(folder, self.meter) as self.profile:
                while self.progress.phase < len(self.settings.phases):
                    self._run_phase(self.settings.phases[self.progress.phase])
                    self._start_next_phase()
        finally:
            self.tracker.close()
        return self.progress

    def _run_phase(self, phase: PhaseSettings) -> None:
        batch_size = min(phase.batch_size, self.parts.num_patches)
        batches_per_epoch = self._batches_per_epoch(batch_size)
        loader = iter(self._make_loader(batch_size, batches_per_epoch, phase.epochs))
        total = phase.epochs * batches_per_epoch
        done = self.progress.epoch * batches_per_epoch + self.progress.batch
        name = f"phase {self.progress.phase + 1}/{len(self.settings.phases)}"
        bar = tqdm(total=total, initial=done, desc=name, unit="step", mininterval=2, dynamic_ncols=True)
        with bar, logging_redirect_tqdm():
            while self.progress.epoch < phase.epochs and not self._is_stalled():
                self._run_epoch(phase, loader, batches_per_epoch, bar)
        if self._is_stalled():
            logger.info("%s: no better PQ for %d epochs, ended", name, self.progress.epochs_without_gain)

    def _run_epoch(self, phase: PhaseSettings, loader: Iterator[Batch], num_batches: int, bar: tqdm) -> None:
        self._set_mode(phase)
        before = self.meter.read()
        with self.meter.running():
            while self.progress.batch < num_batches:
                self._run_batch(phase, loader, num_batches, bar)
        self.usage = self.meter.read() - before
        self._finish_epoch(phase)

    def _run_batch(self, phase: PhaseSettings, loader: Iterator[Batch], num_batches: int, bar: tqdm) -> None:
        """Add the gradients of the next batch, and take a step where it is the last that counts for one."""
        accumulate = self.settings.accumulate
        begun = self.progress.batch // accumulate * accumulate
        with self.meter.stage(WAIT):
            batch = next(loader)
        self._accumulate(batch, share=1 / min(accumulate, num_batches - begun))
        self.progress.batch += 1
        bar.update()
        if self.progress.batch % accumulate and self.progress.batch < num_batches:
            return
        steps_per_epoch = math.ceil(num_batches / accumulate)
        phase_step = self.progress.epoch * steps_per_epoch + begun // accumulate
        rate = learning_rate_at(phase, phase_step, steps_per_epoch)
        with self.meter.stage(OPTIMIZER):
            self._step(rate)
        self._after_step(rate, bar)

    def _accumulate(self, batch: Batch, *, share: float) -> None:
        """Add the gradients of one batch, which is `share` of its step."""
        parts = self.parts
        position = [self.run.seed, self._epochs_before() + self.progress.epoch, self.progress.batch]
        seed = int(np.random.SeedSequence(position).generate_state(1)[0])
        torch.manual_seed(seed)  # for layers that draw, such as stochastic depth
        with self.meter.stage(TRANSFORMS):
            images, targets = parts.transforms(batch, seed)
        with self.meter.stage(FORWARD), self._autocast():
            maps = self.forward(images)
        with self.meter.stage(LOSS):
            total, terms = parts.loss(maps, targets)
        with self.meter.stage(BACKWARD):
            self.scaler.scale(total * share).backward()
        self.losses.add({**terms, "total": total})
        self.meter.add(len(images))

    def _step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.settings.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.progress.step += 1

    def _after_step(self, rate: float, bar: tqdm) -> None:
        if self.progress.step % self.settings.log_every == 0:
            means = self._mean_losses()
            self.losses.reset()
            self.tracker.scalars("loss", means, self.progress.step)
            usage = self._since_log()
            rates = {
                "learning_rate": rate,
                "patches_per_second": usage.patches_per_second,
                "wait_share": usage.wait_share,
            }
            self.tracker.scalars("train", rates, self.progress.step)
            bar.set_postfix_str(f"loss={means['total']:.3f}, {usage}", refresh=False)
        if self.profile is not None:
            self.profile.step()
        every = self.settings.checkpoint_every
        if every and self.progress.step % every == 0:
            self._save_state()

    def _since_log(self) -> Usage:
        """Return what training took since this was asked before."""
        before, self.logged = self.logged, self.meter.read()
        return self.logged - before

    def _mean_losses(self) -> dict[str, float]:
        """Return the mean of each term since the last log entry; waits for the device."""
        try:
            return self.losses.means()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} within the steps before {self.progress.step}: lower the learning rate, or set "
                "train.precision=fp32 or train.clip_norm; "
                f"{self.output_dir / STATE_NAME}, where it is there, holds the last good state"
            ) from error

    def _finish_epoch(self, phase: PhaseSettings) -> None:
        self.progress.epoch += 1
        self.progress.batch = 0
        self._check_finite()
        logger.info("%s: %s", self._title(), self.usage)
        is_due = (
            self.progress.epoch % self.settings.validate_every == 0 or self.progress.epoch == phase.epochs
        )
        if is_due:
            self._validate()
        self._save_state()

    def _validate(self) -> None:
        network = self.network if self.average is None else cast(Network, self.average.module)
        network.eval()
        if self.parts.validator is None:
            self._keep(network, {})
            return
        report = self.parts.validator.validate(network)
        title = self._title()
        self.tracker.epoch(title, report.scores, self.progress.step)
        facts = {**report.page.facts, "run": self.run.output, "step": str(self.progress.step)}
        page = replace(report.page, title=f"Validation, {title}", facts=facts)
        write_page(page, self.output_dir / PAGE_NAME)
        if report.panel is not None:
            self.tracker.image("validation", report.panel, self.progress.step)
        if self._keep(network, report.scores):
            write_scores(self.output_dir, report.evaluation, step=self.progress.step)

    def _title(self) -> str:
        return f"phase {self.progress.phase + 1} epoch {self.progress.epoch}"

    def _keep(self, network: Network, scores: Mapping[str, float]) -> bool:
        """Save the network as the last, and as the best where its PQ is; return whether it is."""
        facts = {**self.parts.facts, "validation": dict(scores), "step": self.progress.step}
        save_checkpoint(network, self.output_dir / LAST_NAME, **facts)
        score = scores.get("PQ", math.nan)
        if not score > self.progress.best_score:  # also when PQ is undefined
            self.progress.epochs_without_gain += self.settings.validate_every
            return False
        self.progress.best_score = score
        self.progress.epochs_without_gain = 0
        save_checkpoint(network, self.output_dir / BEST_NAME, **facts)
        return True

    def _is_stalled(self) -> bool:
        return 0 < self.settings.early_stop <= self.progress.epochs_without_gain

    def _start_next_phase(self) -> None:
        self.progress.phase += 1
        self.progress.epoch = 0
        self.progress.epochs_without_gain = 0
        if self.progress.phase < len(self.settings.phases):
            self.optimizer = self._make_optimizer()
        self._save_state()

    def _set_mode(self, phase: PhaseSettings) -> None:
        """Put the network into training mode; a frozen encoder keeps its batch-norm statistics too."""
        self.network.train()
        self.network.requires_grad_(True)
        for part in self.network.encoder_parts if phase.freeze_encoder else ():
            part.requires_grad_(False)
            part.eval()

    def _batches_per_epoch(self, batch_size: int) -> int:
        full = self.parts.num_patches // batch_size
        return (
            min(full, self.settings.max_steps * self.settings.accumulate) if self.settings.max_steps else full
        )

    def _make_loader(self, batch_size: int, num_batches: int, epochs: int) -> DataLoader[Batch]:
        before = self._epochs_before()
        order = draw_batches(
            self.parts.num_patches,
            batch_size,
            seed=self.run.seed,
            epochs=range(before + self.progress.epoch, before + epochs),
            num_batches=num_batches,
            start=self.progress.batch,
            weights=self.parts.patch_weights,
        )
        return DataLoader(
            self.parts.patches,
            batch_sampler=order,
            num_workers=self.parts.num_workers,
            pin_memory=self.parts.device.type == "cuda",
        )

    def _epochs_before(self) -> int:
        """Return the planned epochs of earlier phases, so that no two epochs of a run draw alike."""
        return sum(phase.epochs for phase in self.settings.phases[: self.progress.phase])

    def _make_optimizer(self) -> torch.optim.Optimizer:
        kind = OPTIMIZERS[self.settings.optimizer]
        rate = self.settings.phases[self.progress.phase].learning_rate
        return kind(self.network.parameters(), lr=rate, weight_decay=self.settings.weight_decay)

    def _make_average(self) -> AveragedModel | None:
        if not self.settings.ema_decay:
            return None
        return AveragedModel(self.network, multi_avg_fn=self._average_weights, use_buffers=True)

    def _average_weights(self, averaged: Weights, current: Weights, count: Tensor | int) -> None:
        """Move the average; early on it follows closely, so that it forgets the fresh weights."""
        step = self.progress.step
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(averaged, current, count)

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        return torch.autocast(
            self.parts.device.type, self.parts.dtype, enabled=self.parts.dtype != torch.float32
        )

    def _check_finite(self) -> None:
        """Raise FloatingPointError where a loss term or a weight is not finite."""
        self._mean_losses()
        if not torch.stack([weight.isfinite().all() for weight in self.network.parameters()]).all():
            raise FloatingPointError(
                f"weights are not finite after step {self.progress.step}, though all loss terms were: a "
                "gradient overflowed; lower the learning rate or set train.precision=fp32"
            )

    def _save_state(self) -> None:
        self._check_finite()  # never overwrites a good state
        states = {name: part.state_dict() for name, part in self._stateful().items()}
        save_state(
            self.output_dir / STATE_NAME, self.progress, self.run, states, stain=self.parts.facts["stain"]
        )
        self.record.write(self.progress, self.meter.read())

    def _resume(self) -> None:
        found = load_state(self.output_dir / STATE_NAME, self.run, stain=self.parts.facts["stain"])
        if found is None:
            return
        self.progress, states = found
        if self.progress.phase < len(self.settings.phases):
            self.optimizer = self._make_optimizer()
        for name, part in self._stateful().items():
            if states[name]:  # a scaler that was not in use has no state
                part.load_state_dict(states[name])
        logger.info("%s: resumed after step %d", self.output_dir, self.progress.step)

    def _stateful(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts if self.average is None else {**parts, "average": self.average}
