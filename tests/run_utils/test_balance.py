"""Weights against imbalance: known answers for types and patches, and runs that log, save and resume them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from models.hovernet.checkpoint import read_checkpoint
from run_utils.build import build_training
from run_utils.training.balance import METHODS, balance_types, weigh_patches
from run_utils.training.checkpoints import LAST_NAME, STATE_NAME, load_state
from run_utils.training.trainer import Trainer
from tests.run_utils.conftest import MakeRun

COUNTS = np.array([6400, 1600, 400, 100])


@pytest.mark.parametrize("method", METHODS)
def test_rarer_types_weigh_more_and_the_mean_over_pixels_is_one(method: str) -> None:
    weights = balance_types(COUNTS, method)
    assert (np.diff(weights) > 0).all()
    assert (weights * COUNTS).sum() == pytest.approx(COUNTS.sum())


def test_inverse_and_root_weights_are_in_the_ratios_of_their_names() -> None:
    inverse, root = balance_types(COUNTS, "inverse"), balance_types(COUNTS, "sqrt")
    np.testing.assert_allclose(inverse / inverse[0], [1, 4, 16, 64])
    np.testing.assert_allclose(root / root[0], [1, 2, 4, 8])


def test_effective_weights_follow_the_published_formula() -> None:
    beta = 1 - 1 / COUNTS.mean()
    numbers = (1 - beta**COUNTS) / (1 - beta)
    weights = balance_types(COUNTS, "effective")
    np.testing.assert_allclose(weights * numbers, weights[0] * numbers[0])


def test_a_type_without_pixels_weighs_as_the_rarest_and_changes_no_other() -> None:
    weights = balance_types(np.array([80, 0, 20]), "inverse")
    np.testing.assert_allclose(weights, [50 / 80, 50 / 20, 50 / 20])


def test_no_pixels_and_unknown_methods_are_refused() -> None:
    with pytest.raises(ValueError, match=r"balance=none"):
        balance_types(np.zeros(3, np.int64), "inverse")
    with pytest.raises(ValueError, match="inverse, sqrt, effective"):
        balance_types(COUNTS, "median")


def test_patches_weigh_by_the_rarity_of_the_types_they_hold() -> None:
    """Of 4 patches 3 hold type 1 and 1 holds type 2: k = 4, with gamma 1 w_1 = 4/3 and w_2 = 4."""
    type_pixels = np.array([[9, 1, 0], [9, 5, 0], [9, 2, 7], [9, 0, 0]])
    np.testing.assert_allclose(weigh_patches(type_pixels, 1.0), [4 / 3, 4 / 3, 4 / 3 + 4, 4 / 3])
    np.testing.assert_allclose(weigh_patches(type_pixels, 0.0), [1, 1, 1, 1])
    one, two = 4 / (0.5 * 3 + 0.5 * 4), 4 / (0.5 * 1 + 0.5 * 4)
    half = [0.5 + 0.5 * one, 0.5 + 0.5 * one, 0.5 + 0.5 * (one + two), 0.5 + 0.5 * one]
    np.testing.assert_allclose(weigh_patches(type_pixels, 0.5), half)


def test_patches_without_any_nucleus_are_drawn_alike() -> None:
    np.testing.assert_allclose(weigh_patches(np.array([[9, 0], [9, 0]]), 0.9), [1, 1])


def test_a_type_of_no_patch_does_not_disturb() -> None:
    assert np.isfinite(weigh_patches(np.array([[9, 1, 0], [9, 0, 0]]), 1.0)).all()


def test_a_balanced_run_logs_and_saves_its_weights(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(balance="sqrt", sampling="types")
    with caplog.at_level(logging.INFO):
        parts = build_training(run)
    assert "train.balance=sqrt weighs types" in caplog.text
    assert "train.sampling=types draws a patch" in caplog.text
    expected = balance_types(parts.patches.type_pixels().sum(axis=0), "sqrt")
    np.testing.assert_allclose(parts.loss.class_weights.numpy(), expected, rtol=1e-5)
    trainer = Trainer(parts, run)
    trainer.train()
    facts = read_checkpoint(trainer.output_dir / LAST_NAME)
    saved = str(facts)
    assert f"'class_weights': {parts.facts['class_weights']}" in saved
    assert "'balance': 'sqrt'" in saved


def test_sampling_by_types_resumes_with_the_weights_of_an_unbroken_run(make_run: MakeRun) -> None:
    class KilledError(Exception):
        pass

    unbroken = Trainer(build_training(make_run("one", sampling="types")), make_run("one", sampling="types"))
    unbroken.train()
    run = make_run("two", sampling="types", checkpoint_every=1)
    broken = Trainer(build_training(run), run)
    steps, original = iter(range(3)), broken._after_step

    def after_step(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]
        if next(steps, None) is None:
            raise KilledError

    broken._after_step = after_step  # type: ignore[method-assign, assignment]
    with pytest.raises(KilledError):
        broken.train()
    resumed = Trainer(build_training(run), run)
    assert 0 < resumed.progress.step < unbroken.progress.step
    resumed.train()
    for one, two in zip(
        unbroken.network.state_dict().values(), resumed.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)


def test_a_run_without_types_cannot_be_balanced(make_run: MakeRun) -> None:
    run = make_run(sampling="types")
    run.model.has_types = False
    with pytest.raises(ValueError, match=r"train.sampling=uniform"):
        build_training(run)


def test_a_run_that_began_before_these_settings_resumes(make_run: MakeRun) -> None:
    run = make_run()
    Trainer(build_training(run), run).train()
    path = Path(run.output) / STATE_NAME
    content = read_checkpoint(path)
    for name in ("balance", "sampling", "sampling_gamma"):
        del content["settings"]["train"][name]
    torch.save(content, path)
    assert load_state(path, run, stain=content["stain"]) is not None
    with pytest.raises(ValueError, match=r"train.sampling was uniform, is types"):
        load_state(path, make_run(sampling="types"), stain=content["stain"])
