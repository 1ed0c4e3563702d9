"""Several processes train as one: gradients, validation, what is written, and what happens when one is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmarks.training import compose_run
from config.schema import PhaseSettings, StainSettings, TrainingRun
from dataloader.colour import ColourAugment
from dataloader.stain import HedJitter
from models.hovernet.checkpoint import load_checkpoint, save_checkpoint
from run_utils.build import build_training
from run_utils.distributed import ALONE, World, read_world
from run_utils.training.checkpoints import LAST_NAME, STATE_NAME
from run_utils.training.run import train
from run_utils.training.trainer import Trainer
from tests.conftest import ROOT
from tests.run_utils import shared_training

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRun = Callable[..., TrainingRun]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
# Of torchrun's two processes one has 2 of 3 patches: uneven shares.
STEPS: dict[str, dict[str, Any]] = {
    "one batch": {"class_weights": [0.0, 1.0, 2.0, 1.0, 3.0]},
    "two batches": {"focal_gamma": 2.0, "accumulate": 2, "checkpoint_gradients": True, "max_steps": 1},
    "frozen encoder": {"start_from": "start.pt"},
    "own statistics": {"sync_batch_norm": False},
}


@pytest.fixture
def together(make_run: MakeRun, tmp_path: Path) -> tuple[dict[str, TrainingRun], Path]:
    """The runs of STEPS, and the folder in which two processes left what they found of each."""
    runs = {}
    for name, settings in STEPS.items():
        phase = PhaseSettings(epochs=1, batch_size=3, freeze_encoder="start_from" in settings)
        if "start_from" in settings:
            settings = {"start_from": str(tmp_path / "start.pt")}
        runs[name] = make_run(name, phases=[phase], **{"max_steps": 1, "ema_decay": 0.0, **settings})
        runs[name].stain = StainSettings(hed_scale=0.2, hed_shift=0.05)
    save_checkpoint(build_training(make_run()).network, tmp_path / "start.pt")
    torch.save(runs, tmp_path / "runs.pt")
    command = [*TORCHRUN, shared_training.__file__, str(tmp_path / "runs.pt"), str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("100%") == len(runs), "one process alone shows a bar"
    return runs, tmp_path


def test_two_processes_give_what_one_gives(together: tuple[dict[str, TrainingRun], Path]) -> None:
    runs, folder = together
    for name, run in runs.items():
        run.output += " alone"
        alone = shared_training.take_step(run)
        first, second = (torch.load(folder / f"{name}.{rank}.pt") for rank in (0, 1))
        assert first["patches"] == alone["patches"] == 3 * run.train.accumulate
        assert first["gradients"].keys() == alone["gradients"].keys()
        for key, gradient in first["gradients"].items():
            assert torch.equal(gradient, second["gradients"][key]), (name, key)
        if run.train.sync_batch_norm:
            torch.testing.assert_close(first["losses"], alone["losses"], rtol=1e-6, atol=0)
            torch.testing.assert_close(first["statistics"], alone["statistics"], rtol=1e-9, atol=0)
            for key, gradient in alone["gradients"].items():
                error = (first["gradients"][key] - gradient).norm() / gradient.norm()
                assert error < 1e-5, (name, key, error)  # the loss computes in float32
    found, alone = torch.load(folder / "validation.pt"), shared_training.validate()
    assert json.dumps(found) == json.dumps(alone)  # to the last digit, scores that are not defined included
    assert found["scores"]["PQ"] > 0.9


def _start(*arguments: str) -> subprocess.Popen[str]:
    command = [*TORCHRUN, str(ROOT / "run_train.py"), *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def _wait_for_step(path: Path, step: int, process: subprocess.Popen[str]) -> None:
    while not path.is_file() or torch.load(path, weights_only=True)["progress"]["step"] < step:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def _weights(output: Path) -> torch.Tensor:
    state = torch.load(output / STATE_NAME, weights_only=True)["states"]["network"]
    return torch.cat([values.flatten().double() for values in state.values()])


def test_a_killed_process_ends_all_with_the_reason_and_one_process_goes_on(
    tiny_patches: Path, tmp_path: Path
) -> None:
    arguments = [
        "model=lite", "model.num_stages=2", "model.decoder_channels=[8]", "model.margin=0",
        "augmentation=random_crop",
        "train.phases=[{epochs: 8, batch_size: 3, learning_rate: 0.001, schedule: cosine, warmup_steps: 3}]",
        "train.input_size=64", "train.precision=fp32", "train.ema_decay=0.9", "train.checkpoint_every=1",
        "train.num_workers=0", "train.max_steps=2", "train.validate_every=2", "device=cpu",
        f"data.patches={tiny_patches}",
    ]  # fmt: skip
    process = _start(*arguments, f"output={tmp_path / 'broken'}")
    _wait_for_step(tmp_path / "broken" / STATE_NAME, 5, process)
    workers = psutil.Process(process.pid).children()
    next(worker for worker in workers if worker.environ().get("RANK") == "1").kill()
    killed = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0 and time.monotonic() - killed < 60
    (line,) = [line for line in error.splitlines() if "process 0 of 2: another process" in line]
    assert line.startswith("run_train.py: ") and "start the same command again" in line
    assert load_checkpoint(tmp_path / "broken" / LAST_NAME).num_types == 5
    assert not list((tmp_path / "broken").glob(".*.tmp"))

    for name in ("broken", "unbroken"):
        train(compose_run(*arguments, f"output={tmp_path / name}"))
    states = [torch.load(tmp_path / name / STATE_NAME, weights_only=True) for name in ("broken", "unbroken")]
    assert states[0]["progress"]["step"] == states[1]["progress"]["step"] == 16
    start = build_training(compose_run(*arguments, "output=nowhere")).network.state_dict()
    start_weights = torch.cat([values.flatten().double() for values in start.values()])
    broken, unbroken = _weights(tmp_path / "broken"), _weights(tmp_path / "unbroken")
    assert (broken - unbroken).norm() < 0.05 * (unbroken - start_weights).norm()


def test_processes_that_outnumber_a_batch_are_refused(make_run: MakeRun) -> None:
    run = make_run(phases=[PhaseSettings(epochs=1, batch_size=2)])
    parts = dataclasses.replace(build_training(run), world=World(rank=0, size=3))
    with pytest.raises(ValueError, match=r"batch_size=2 of \d+ patches leaves some of 3 processes without"):
        Trainer(parts, run)


@pytest.mark.parametrize("colour", [ColourAugment(), HedJitter(0.2, 0.1)], ids=["colour", "hed"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_patch_gets_the_same_colours_in_any_share_of_its_batch(colour: Any, device: str) -> None:
    images = torch.randint(0, 256, (11, 3, 33, 33), dtype=torch.uint8, device=device)
    whole = colour(images, torch.Generator().manual_seed(7))
    for size in (2, 4):
        for rank in range(size):
            rows = World(rank, size).rows(len(images))
            mine = colour(images[rank::size], torch.Generator().manual_seed(7), rows)
            assert torch.equal(mine, whole[rank::size])


def test_the_world_is_what_torchrun_says_and_one_process_without_it() -> None:
    said = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node"}
    assert read_world(said) == World(rank=5, size=8, local_rank=1, local_size=4)
    assert read_world({"WORLD_SIZE": "8"}) == ALONE
    shares = [World(rank, 3).share(list(range(7))) for rank in range(3)]
    assert sorted(sum(shares, [])) == list(range(7))
    assert [list(World(rank, 3).rows(7)) for rank in range(3)] == shares


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = torch.device("cuda")
    assert World(1, 2, local_rank=1, local_size=2).place(cuda) == torch.device("cuda:1")
    for world, device in (
        (World(2, 3, local_rank=2, local_size=3), cuda),
        (World(1, 2), torch.device("cuda:1")),
    ):
        with pytest.raises(ValueError, match="needs a GPU of its own; set device=cuda and torchrun"):
            world.place(device)
