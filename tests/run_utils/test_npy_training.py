"""Training on a folder of the published code's patches: two steps, a validation, and a network with its types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from config.schema import PhaseSettings, TrainingRun
from dataloader.npy_patches import NpyPatches
from dataloader.patches import PatchStore
from models.hovernet.checkpoint import load_checkpoint
from run_utils.build import build_training, open_store
from run_utils.training.checkpoints import BEST_NAME
from run_utils.training.run import train

MakeRun = Callable[..., TrainingRun]
NAMES = ["background", "misc", "inflammatory", "epithelial", "spindle"]


@pytest.fixture
def npy_run(make_run: MakeRun, tiny_patches: Path, tmp_path: Path) -> TrainingRun:
    """Settings of a run on patches of 96 px as (S, S, 5) int32 files; two of them are for validation."""
    store = PatchStore(tiny_patches / "train.zarr")
    for split, indices in (("train", range(4)), ("validation", range(4, 6))):
        folder = tmp_path / "npy" / split / "96x96_48x48"
        folder.mkdir(parents=True)
        for index in indices:
            values = np.dstack([np.asarray(part, np.int32) for part in store.read(index)])
            np.save(folder / f"train_1_{index:03d}.npy", values)
    run = make_run(phases=[PhaseSettings(epochs=1, batch_size=2)], max_steps=2)
    run.data.patches = str(tmp_path / "npy")
    run.data.class_names = NAMES
    return run


def test_two_steps_and_a_validation_on_npy_patches_leave_a_network(npy_run: TrainingRun) -> None:
    train(npy_run)
    network = load_checkpoint(Path(npy_run.output) / BEST_NAME)
    assert [kind.name for kind in network.facts.types] == NAMES
    assert network.facts.mpp == 0.25
    assert "PQ" in network.facts.notes["validation"]


def test_a_store_goes_before_a_folder_of_the_same_name(npy_run: TrainingRun, tiny_patches: Path) -> None:
    assert isinstance(open_store(npy_run, "train"), NpyPatches)
    (Path(npy_run.data.patches) / "train.zarr").symlink_to(tiny_patches / "train.zarr")
    assert isinstance(open_store(npy_run, "train"), PatchStore)


def test_stain_normalisation_of_npy_patches_is_refused_before_training(npy_run: TrainingRun) -> None:
    npy_run.stain.method = "macenko"
    with pytest.raises(ValueError, match="stain=none"):
        build_training(npy_run)


def test_validation_patches_of_other_types_are_refused_before_training(
    npy_run: TrainingRun, tiny_patches: Path
) -> None:
    npy_run.data.class_names = [*NAMES[:2], "other", *NAMES[3:]]
    (Path(npy_run.data.patches) / "validation.zarr").symlink_to(tiny_patches / "validation.zarr")
    with pytest.raises(ValueError, match=r"validation.zarr has the types .*the training patches .*'other'"):
        build_training(npy_run)
    npy_run.model.has_types = False
    assert build_training(npy_run).validator is not None


def test_validation_patches_without_types_are_refused_where_training_has_some(npy_run: TrainingRun) -> None:
    for file in (Path(npy_run.data.patches) / "validation").rglob("*.npy"):
        np.save(file, np.load(file)[..., :4])
    with pytest.raises(ValueError, match=r"validation has the types \[\], the training patches"):
        build_training(npy_run)


def test_validation_patches_may_lack_the_last_types_of_unnamed_ones(npy_run: TrainingRun) -> None:
    npy_run.data.class_names = []
    for file in (Path(npy_run.data.patches) / "validation").rglob("*.npy"):
        values = np.load(file)
        values[..., 4] = np.minimum(values[..., 4], 3)
        np.save(file, values)
    assert build_training(npy_run).validator is not None
