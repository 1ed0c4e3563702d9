"""A patch store and settings small enough to train on within a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from config.schema import (
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    PhaseSettings,
    TrainingRun,
    TrainSettings,
)
from dataloader.annotations import open_annotations
from models.hovernet.checkpoint import save_checkpoint
from models.hovernet.lite import HoVerNetLite
from models.nuclei import NucleusType
from run_utils.extraction import extract_patches, plan_stores
from tests.drawing import write_tissue

MakeRun = Callable[..., TrainingRun]

TYPES = [
    NucleusType("background", (0, 0, 0)),
    NucleusType("round", (255, 0, 0)),
    NucleusType("long", (0, 0, 255)),
]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch work on one thread: small maps take no longer so, and far less on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of random weights, always the same, with three types."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    torch.manual_seed(0)
    network = HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=0)
    save_checkpoint(network, path, types=TYPES, mpp=0.25)
    return path


@pytest.fixture(scope="session")
def tiny_patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of patch stores of 96 px, cut from a synthetic data set."""
    folder = tmp_path_factory.mktemp("tiny")
    adapter = open_annotations("consep", write_tissue(folder / "consep"))
    plans = plan_stores(adapter, ["Train", "Test"], num_validation=1)
    extract_patches(adapter, folder / "patches", plans, patch_size=96, patch_step=48)
    return folder / "patches"


@pytest.fixture
def make_run(tiny_patches: Path, tmp_path: Path) -> MakeRun:
    """Give settings of a tiny run; keywords replace those of `train`, `output` the folder."""

    def make(output: str = "run", phases: list[PhaseSettings] | None = None, **train: object) -> TrainingRun:
        values: dict[str, object] = {
            "input_size": 64,
            "num_workers": 0,
            "precision": "fp32",
            "log_every": 2,
            "max_steps": 3,
            "ema_decay": 0.9,
            **train,
        }
        return TrainingRun(
            data=DataSettings(adapter="consep", root="", patches=str(tiny_patches)),
            model=ModelSettings(name="HoVerNetLite", num_stages=2, decoder_channels=[8], margin=0),
            augmentation=AugmentationSettings(crop="random"),
            train=TrainSettings(
                phases=phases or [PhaseSettings(epochs=2, batch_size=2, learning_rate=1e-3)], **values
            ),
            output=str(tmp_path / output),
            device="cpu",
        )

    return make
