"""A training by two processes, one of which is killed: for `python -m benchmarks.faults --only training`."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from benchmarks.faults import Kill
from benchmarks.training import draw_patches
from models.hovernet.checkpoint import load_checkpoint
from run_utils.training.checkpoints import LAST_NAME, STATE_NAME

SCRIPT = Path(__file__).resolve().parents[1] / "run_train.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT))
ALONE = (sys.executable, str(SCRIPT))
SETTINGS = (
    "model=lite", "model.num_stages=2", "model.decoder_channels=[8]", "model.margin=0",
    "augmentation=random_crop", "train.input_size=64", "train.precision=fp32", "train.num_workers=1",
    "train.phases=[{epochs: 4, batch_size: 3, learning_rate: 0.001, schedule: cosine, warmup_steps: 3}]",
    "train.max_steps=4", "train.validate_every=2", "train.checkpoint_every=3", "train.ema_decay=0.9", "device=cpu",
)  # fmt: skip
NUM_PATCHES = 16
LATEST = 0.9  # share of the undisturbed run's time, from when its processes have joined, before which one is killed
END_S = 60  # within which all processes have ended once one is killed
# Of the weights' norm. Sums in another order part two runs, since Adam divides by small gradients: another number of
# processes by 0.014 after 30 steps, another memory layout in one process by 0.017, of the 0.97 that weights move.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Undisturbed:
    """The run to compare with.

    Attributes:
        folder: of the run.
        seconds: from when its processes had joined to their end.
    """

    folder: Path
    seconds: float


def kill_once(folder: Path, generator: random.Random) -> Kill:
    """Kill one of a run's two processes, start the run again by one or two, and compare its end."""
    expected = _undisturbed(folder)
    output = Path(tempfile.mkdtemp(prefix="broken_", dir=folder)) / "run"
    process = _start(TORCHRUN, folder, output)
    workers = _wait_for_workers(process, output)
    started = time.monotonic()
    moment = generator.uniform(0, LATEST * expected.seconds)
    time.sleep(moment)
    victim = generator.choice(workers)
    if process.poll() is not None:
        return kill_once(folder, generator)  # was faster than the run to compare with
    saved = _age(output / STATE_NAME, started)
    victim.kill()
    status = process.wait(timeout=END_S)
    assert status != 0, "the run must not look as if it had succeeded"
    again = _start(generator.choice([TORCHRUN, ALONE]), folder, output)
    assert again.wait() == 0, "the run must go on when it is started again"
    return _compare(output, expected, after_s=moment, share_again=saved / expected.seconds)


def _undisturbed(folder: Path) -> Undisturbed:
    """Return the run that nothing disturbs, made where it is not there yet."""
    output, record = folder / "unbroken", folder / "unbroken.seconds"
    if not record.is_file():
        draw_patches(folder / "patches" / "train.zarr", NUM_PATCHES)
        draw_patches(folder / "patches" / "validation.zarr", 1)
        process = _start(TORCHRUN, folder, output)
        _wait_for_workers(process, output)
        started = time.monotonic()
        assert process.wait() == 0, "a run that nothing disturbs must succeed"
        record.write_text(str(time.monotonic() - started))
    return Undisturbed(output, float(record.read_text()))


def _start(command: tuple[str, ...], folder: Path, output: Path) -> subprocess.Popen[bytes]:
    settings = (*SETTINGS, f"data.patches={folder / 'patches'}", f"output={output}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *settings], env=environment, stderr=subprocess.DEVNULL)


def _wait_for_workers(process: subprocess.Popen[bytes], output: Path) -> list[psutil.Process]:
    """Return torchrun's two processes once they have joined; then the run's folder is there."""
    while not output.is_dir():
        assert process.poll() is None, "torchrun ended before its processes began"
        time.sleep(0.05)
    return psutil.Process(process.pid).children()


def _age(path: Path, started: float) -> float:
    """Return the seconds since a file was written, or since the start where it was not."""
    return time.time() - path.stat().st_mtime if path.is_file() else time.monotonic() - started


def _compare(output: Path, expected: Undisturbed, *, after_s: float, share_again: float) -> Kill:
    load_checkpoint(output / LAST_NAME)
    (steps, weights), (expected_steps, expected_weights) = map(_read, (output, expected.folder))
    is_other = (weights - expected_weights).norm() > TOLERANCE * expected_weights.norm()
    return Kill(
        what="one of two processes that train together, started again by one or two",
        after_s=after_s,
        num_lost=max(expected_steps - steps, 0),
        num_twice=max(steps - expected_steps, 0) + int(is_other),
        share_again=share_again,
    )


def _read(output: Path) -> tuple[int, Tensor]:
    """Return a run's steps and its weights, (num weights,) float64."""
    state = torch.load(output / STATE_NAME, weights_only=True)
    weights = state["states"]["network"].values()
    return state["progress"]["step"], torch.cat([values.flatten().double() for values in weights])
