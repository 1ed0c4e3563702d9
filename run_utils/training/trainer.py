"""The training loop: phases, epochs, steps, read from top to bottom."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from config.schema import PhaseSettings, TrainingRun
from models.hovernet.checkpoint import Network
from run_utils.devices import describe_device
from run_utils.distributed import without_sharing
from run_utils.training.averaging import make_average, move_average
from run_utils.training.batches import draw_batches
from run_utils.training.checkpoints import STATE_NAME, Progress, load_state
from run_utils.training.forward import Forward, make_forward
from run_utils.training.loss_meter import LossMeter
from run_utils.training.parts import Batch, TrainingParts
from run_utils.training.run_folder import RunFolder
from run_utils.training.schedule import learning_rate_at
from run_utils.training.step_profile import StepProfile, profile_steps
from run_utils.training.synced_norm import sync_batch_norms
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

logger = logging.getLogger(__name__)

PROFILE_DIR = "profile"
BAR: dict[str, Any] = {"unit": "step", "mininterval": 2, "dynamic_ncols": True}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class Trainer:
    """A run: trains, validates, keeps the best network, and goes on where a killed run stopped.

    Args:
        parts: what to train, and on what.
        run: the run's settings.

    Attributes:
        usage: what the last epoch took.

    Raises:
        ValueError: where the output folder holds a run with other settings, or processes outnumber a batch.
    """

    def __init__(self, parts: TrainingParts, run: TrainingRun) -> None:
        self.parts = parts
        self.run = run
        self.settings = run.train
        self.world = parts.world
        self.network = parts.network
        self._check_batch_sizes()
        self._join()
        self.parallel: nn.Module = parts.network
        self.forward = make_forward(parts.network, run.train)  # as of now, where it cannot be
        self.average = make_average(self.network) if self.settings.ema_decay else None
        self.scaler = torch.amp.GradScaler(parts.device.type, enabled=parts.dtype == torch.float16)
        self.output_dir = Path(run.output)
        self.progress = Progress()
        self.optimizer = self._make_optimizer()
        self.losses = LossMeter()
        self.meter = ThroughputMeter(parts.device)
        self.usage = self.logged = Usage()
        self.profile: StepProfile | None = None
        self._resume()
        self.folder = self._open_folder() if self.world.is_main else None

    def train(self) -> Progress:
        """Run every phase that is left; return where the run ended.

        Raises:
            FloatingPointError: when a loss term stops being finite; the last good state stays on disk.
        """
        folder = self.output_dir / PROFILE_DIR if self.run.profile and self.world.is_main else None
        try:
            with profile_steps(folder, self.meter) as self.profile:
                while self.progress.phase < len(self.settings.phases):
                    self._run_phase(self.settings.phases[self.progress.phase])
                    self._start_next_phase()
        finally:
            if self.folder is not None:
                self.folder.tracker.close()
        return self.progress

    def _run_phase(self, phase: PhaseSettings) -> None:
        batch_size = self._batch_size(phase)
        batches_per_epoch = self._batches_per_epoch(batch_size)
        loader = iter(self._make_loader(batch_size, batches_per_epoch, phase.epochs))
        total = phase.epochs * batches_per_epoch
        done = self.progress.epoch * batches_per_epoch + self.progress.batch
        name = f"phase {self.progress.phase + 1}/{len(self.settings.phases)}"
        is_quiet = not self.world.is_main
        bar = tqdm(total=total, initial=done, desc=name, disable=is_quiet, **BAR)
        self._set_mode(phase)
        self.parallel, self.forward = self._share_gradients()
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
        is_last = (self.progress.batch + 1) % accumulate == 0 or self.progress.batch + 1 == num_batches
        rows = self.world.rows(self._batch_size(phase))
        with contextlib.nullcontext() if is_last else without_sharing(self.parallel):
            self._accumulate(batch, rows, share=1 / min(accumulate, num_batches - begun))
        self.progress.batch += 1
        bar.update()
        if not is_last:
            return
        steps_per_epoch = math.ceil(num_batches / accumulate)
        phase_step = self.progress.epoch * steps_per_epoch + begun // accumulate
        rate = learning_rate_at(phase, phase_step, steps_per_epoch)
        with self.meter.stage(OPTIMIZER):
            self._step(rate)
        self._after_step(rate, bar)

    def _accumulate(self, batch: Batch, rows: range, *, share: float) -> None:
        """Add the gradients of one batch, which is `share` of its step, and of which this process has some rows."""
        parts = self.parts
        position = [self.run.seed, self._epochs_before() + self.progress.epoch, self.progress.batch]
        seed = int(np.random.SeedSequence(position).generate_state(1)[0])
        torch.manual_seed(seed + self.world.rank)  # for layers that draw, such as stochastic depth
        with self.meter.stage(TRANSFORMS):
            images, targets = parts.transforms(batch, seed, rows)
        with self.meter.stage(FORWARD), self._autocast():
            maps = self.forward(images)
        with self.meter.stage(LOSS):
            total, terms = parts.loss(maps, targets)
        with self.meter.stage(BACKWARD):
            self.scaler.scale(total * share).backward()
        self.losses.add({**terms, "total": total})
        self.meter.add(rows.stop)  # what all processes have done

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
            step = self.progress.step  # early on it follows closely, so that it forgets the fresh weights
            decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
            move_average(self.average, self.network, decay)
        self.progress.step += 1

    def _after_step(self, rate: float, bar: tqdm) -> None:
        if self.progress.step % self.settings.log_every == 0:
            self._log(rate, bar)
        if self.profile is not None:
            self.profile.step()
        every = self.settings.checkpoint_every
        if every and self.progress.step % every == 0:
            self._save_state()

    def _log(self, rate: float, bar: tqdm) -> None:
        """Record the mean losses, the learning rate and the speed since this was done before."""
        means = self._mean_losses()
        self.losses.reset()
        before, self.logged = self.logged, self.meter.read()
        usage = self.logged - before
        bar.set_postfix_str(f"loss={means['total']:.3f}, {usage}", refresh=False)
        if self.folder is None:
            return
        rates = {
            "learning_rate": rate,
            "patches_per_second": usage.patches_per_second,
            "wait_share": usage.wait_share,
        }
        self.folder.tracker.scalars("loss", means, self.progress.step)
        self.folder.tracker.scalars("train", rates, self.progress.step)

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
        self.world.align(network)
        validator = self.parts.validator
        report = None if validator is None else validator.validate(network)
        scores = self.world.broadcast({} if report is None else report.scores)
        is_best = self._rank(scores.get("PQ", math.nan))
        if self.folder is not None:
            self.folder.save_network(
                network, report, title=self._title(), step=self.progress.step, is_best=is_best
            )

    def _title(self) -> str:
        return f"phase {self.progress.phase + 1} epoch {self.progress.epoch}"

    def _rank(self, score: float) -> bool:
        """Return whether a PQ is the best so far, and count the epochs since the best."""
        if not score > self.progress.best_score:  # also when PQ is undefined
            self.progress.epochs_without_gain += self.settings.validate_every
            return False
        self.progress.best_score = score
        self.progress.epochs_without_gain = 0
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

    def _batch_size(self, phase: PhaseSettings) -> int:
        """Return the patches of a batch, which processes share."""
        return min(phase.batch_size, self.parts.num_patches)

    def _check_batch_sizes(self) -> None:
        for number, phase in enumerate(self.settings.phases):
            if self._batch_size(phase) < self.world.size:
                raise ValueError(
                    f"train.phases.{number}.batch_size={phase.batch_size} of {self.parts.num_patches} patches leaves "
                    f"some of {self.world.size} processes without a patch; set it to {self.world.size} or more, or "
                    "start fewer processes"
                )

    def _join(self) -> None:
        """Let the processes begin with one network, and see the whole batch in its batch norms where they are to."""
        self.world.align(self.network)
        if self.world.is_shared and self.settings.sync_batch_norm:
            sync_batch_norms(self.network)

    def _share_gradients(self) -> tuple[nn.Module, Forward]:
        """Return what sums up the gradients of the processes, of weights that the phase trains, and how to call it."""
        has_own_statistics = not self.settings.sync_batch_norm
        parallel = self.world.share_gradients(self.network, has_own_statistics=has_own_statistics)
        return parallel, make_forward(self.network, self.settings, parallel)

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
            batch_sampler=(self.world.share(batch) for batch in order),
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
        if self.folder is not None:
            states = {name: part.state_dict() for name, part in self._stateful().items()}
            self.folder.save_state(self.progress, states, self.meter.read())

    def _open_folder(self) -> RunFolder:
        device = describe_device(self.parts.device)
        return RunFolder(
            self.run,
            self.parts.facts,
            num_patches=self.parts.num_patches,
            device=f"{self.world.size} processes on {device}" if self.world.is_shared else device,
            step=self.progress.step,
        )

    def _resume(self) -> None:
        found = None
        if self.world.is_main:
            found = load_state(self.output_dir / STATE_NAME, self.run, stain=self.parts.facts["stain"])
        found = self.world.broadcast(found)
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
