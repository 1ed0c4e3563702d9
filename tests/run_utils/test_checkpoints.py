"""When a run may be resumed: with the settings that it began with, and with the stain that they gave then."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from config.schema import TrainingRun
from dataloader.stain import PUBLISHED_TARGET, StainStatistics, make_normalizer
from run_utils.stain import describe_stain
from run_utils.training.checkpoints import STATE_NAME, Progress, load_state, save_state
from run_utils.training.run import train

MakeRun = Callable[..., TrainingRun]

PLAIN = describe_stain(None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / STATE_NAME


def save_older(path: Path, run: TrainingRun, forget: Callable[[dict[str, Any]], object]) -> None:
    """Save a state as a version did that did not know some settings."""
    save_state(path, Progress(step=7), run, {}, stain=PLAIN)
    content = torch.load(path, weights_only=True)
    forget(content["settings"])
    del content["stain"]
    torch.save(content, path)


NEWER = {
    "stain": lambda settings: settings.pop("stain"),
    "one of stain": lambda settings: settings["stain"].pop("order"),
    "train": lambda settings: [
        settings["train"].pop(name) for name in ("balance", "sampling", "sampling_gamma")
    ],
    "data": lambda settings: [settings["data"].pop(name) for name in ("train_store", "colours", "mpp")],
    "one of a phase": lambda settings: [phase.pop("warmup_steps") for phase in settings["train"]["phases"]],
    "one of the loss": lambda settings: settings["train"]["loss_weights"].pop("nc_dice"),
}


@pytest.mark.parametrize("forget", NEWER.values(), ids=NEWER)
def test_a_run_begun_before_a_setting_was_there_goes_on_as_with_its_default(
    make_run: MakeRun, path: Path, forget: Callable[[dict[str, Any]], object]
) -> None:
    run = make_run()
    save_older(path, run, forget)
    found = load_state(path, run, stain=PLAIN)
    assert found is not None and found[0].step == 7


def test_another_value_than_the_default_of_a_newer_setting_is_refused(make_run: MakeRun, path: Path) -> None:
    run = make_run()
    save_older(path, run, NEWER["stain"])
    other = copy.deepcopy(run)
    other.stain.hed_scale = 0.2
    with pytest.raises(ValueError, match=r"stain.hed_scale was 0.0, is 0.2"):
        load_state(path, other, stain=PLAIN)
    other = copy.deepcopy(run)
    other.train.phases[0].warmup_steps = 3
    save_older(path, run, NEWER["one of a phase"])
    with pytest.raises(ValueError, match=r"train.phases.0.warmup_steps was 0, is 3"):
        load_state(path, other, stain=PLAIN)


def test_another_number_of_phases_is_refused(make_run: MakeRun, path: Path) -> None:
    run = make_run()
    save_state(path, Progress(), run, {}, stain=PLAIN)
    longer = copy.deepcopy(run)
    longer.train.phases *= 2
    for other, begun in ((longer, run), (run, longer)):
        save_state(path, Progress(), begun, {}, stain=PLAIN)
        with pytest.raises(ValueError, match=r"train.phases.1.epochs was"):
            load_state(path, other, stain=PLAIN)


def test_a_target_rewritten_between_kill_and_resumption_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    PUBLISHED_TARGET.save(target)
    run = make_run()
    run.stain = dataclasses.replace(run.stain, method="macenko", target=str(target))
    train(run)
    train(run)  # the same target: nothing is left to do
    StainStatistics("macenko", ((0.6, 0.2), (0.7, 0.8), (0.4, 0.5)), (1.5, 1.0)).save(target)
    with pytest.raises(ValueError, match=r"run whose patches got another stain .*target\.json.* output="):
        train(run)


def test_a_target_fitted_again_on_another_machine_is_the_same(make_run: MakeRun, path: Path) -> None:
    """Sums of another processor differ in their last digits."""
    run = make_run()
    save_state(path, Progress(), run, {}, stain=describe_stain(make_normalizer("macenko")))
    near = dataclasses.replace(PUBLISHED_TARGET, max_concentrations=(1.9705 * (1 + 1e-6), 1.0308))
    assert load_state(path, run, stain=describe_stain(make_normalizer("macenko", near))) is not None
    far = dataclasses.replace(PUBLISHED_TARGET, max_concentrations=(1.9705 * 1.01, 1.0308))
    for other in (describe_stain(make_normalizer("macenko", far)), PLAIN):
        with pytest.raises(ValueError, match="another stain"):
            load_state(path, run, stain=other)
