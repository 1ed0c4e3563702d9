"""Several processes train as one: gradients, validation, what is written, and what happens when one is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from benchmarks.training import compose_run
from config.schema import PhaseSettings, TrainingRun
from dataloader.colour import ColourAugment
from dataloader.stain import HedJitter
from models.hovernet.checkpoint import load_checkpoint, save_checkpoint
from run_utils.build import build_training
from run_utils.distributed import ALONE, World, read_world, start_world
from run_utils.training.checkpoints import LAST_NAME, STATE_NAME
from run_utils.training.run import train
from run_utils.training.trainer import Trainer
from tests.conftest import ROOT
from tests.run_utils import shared_training
from tests.run_utils.shared_training import STEPS, TRAINING

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRun = Callable[..., TrainingRun]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


class Together(NamedTuple):
    """What two processes left: files in a folder, and an end, for one of them was killed at its fifth step or later."""

    folder: Path
    status: int
    error: str
    seconds_to_end: float


@pytest.fixture(scope="module")
def together(tiny_patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Together:
    folder = tmp_path_factory.mktemp("together")
    run = compose_run(*TRAINING, f"data.patches={tiny_patches}", "output=nowhere")
    save_checkpoint(build_training(run).network, folder / shared_training.START)
    process = subprocess.Popen(
        [*TORCHRUN, shared_training.__file__, str(tiny_patches), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    state = folder / "broken" / STATE_NAME
    while not state.is_file() or torch.load(state, weights_only=True)["progress"]["step"] < 5:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children()
    next(worker for worker in workers if worker.environ()["RANK"] == "1").kill()
    killed = time.monotonic()
    _, error = process.communicate(timeout=60)
    return Together(folder, process.returncode, error, time.monotonic() - killed)


@pytest.mark.parametrize("name", STEPS)
def test_two_processes_give_the_gradients_of_one(together: Together, tiny_patches: Path, name: str) -> None:
    alone = shared_training.take_step(name, tiny_patches, together.folder)
    first, second = (torch.load(together.folder / f"{name}.{rank}.pt") for rank in (0, 1))
    assert first["gradients"].keys() == alone["gradients"].keys()
    for key, gradient in first["gradients"].items():
        assert torch.equal(gradient, second["gradients"][key]), key
    assert first["patches"] == alone["patches"] == (6 if name == "two batches" else 3)
    if name == "own statistics":
        return
    torch.testing.assert_close(first["losses"], alone["losses"], rtol=1e-6, atol=0)
    torch.testing.assert_close(first["statistics"], alone["statistics"], rtol=1e-9, atol=0)
    for key, gradient in alone["gradients"].items():
        error = (first["gradients"][key] - gradient).norm() / gradient.norm()
        assert error < 1e-5, (key, error)  # the loss computes in float32


def test_two_processes_validate_as_one_to_the_last_digit(together: Together) -> None:
    found, alone = torch.load(together.folder / "validation.0.pt"), shared_training.validate()
    assert json.dumps(found) == json.dumps(alone)  # text: what is not defined equals itself there
    assert found["scores"]["PQ"] > 0.9
    assert not (together.folder / "validation.1.pt").exists()


def test_a_killed_process_ends_all_with_the_reason_and_whole_files(together: Together) -> None:
    assert together.status != 0 and together.seconds_to_end < 60
    (line,) = [line for line in together.error.splitlines() if "another process of this run" in line]
    assert "shared_training.py: process 0 of 2" in line and "start the same command again" in line
    assert load_checkpoint(together.folder / "broken" / LAST_NAME).num_types == 5
    assert not list((together.folder / "broken").glob(".*.tmp"))
    assert together.error.count("2 processes") == 1, "one process alone speaks"


def test_one_process_goes_on_where_two_were(together: Together, tiny_patches: Path) -> None:
    runs = [
        compose_run(*TRAINING, f"data.patches={tiny_patches}", f"output={together.folder / name}")
        for name in ("broken", "unbroken")
    ]
    start = build_training(runs[0]).network.state_dict()
    for run in runs:
        train(run)
    states = [torch.load(Path(run.output) / STATE_NAME, weights_only=True) for run in runs]
    assert states[0]["progress"]["step"] == states[1]["progress"]["step"] == 16
    broken, unbroken = (_flatten(state["states"]["network"]) for state in states)
    assert (broken - unbroken).norm() < 0.05 * (unbroken - _flatten(start)).norm()


def _flatten(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([values.flatten().double() for values in state.values()])


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
            difference = (mine.int() - whole[rank::size].int()).abs().max()
            assert difference <= (device == "cuda")  # there a mean is added up in another order


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


@pytest.fixture
def free_port() -> Iterator[int]:
    with shared_training.holding_free_port() as port:
        yield port


def test_a_process_that_cannot_reach_the_others_names_their_address(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port),
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("run_utils.distributed.TIMEOUT", timedelta(seconds=0.6))
    message = rf"could not join 127\.0\.0\.1:{free_port} within 0\.01 minutes \(.*timed out.*\): check --rdzv-endpoint"
    with pytest.raises(ConnectionError, match=message), start_world(torch.device("cpu")):
        pytest.fail("joined nobody")
