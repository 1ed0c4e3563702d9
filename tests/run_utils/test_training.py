"""The training loop: phases, freezing, guards, checkpoints, and resuming after a kill."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from config.schema import PhaseSettings, TrainingRun
from models.hovernet.checkpoint import load_checkpoint, save_checkpoint
from run_utils.build import build_training
from run_utils.training.checkpoints import BEST_NAME, LAST_NAME, STATE_NAME
from run_utils.training.run import train
from run_utils.training.trainer import Trainer
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRun = Callable[..., TrainingRun]


def _state(run: TrainingRun) -> dict[str, object]:
    return torch.load(Path(run.output) / STATE_NAME, weights_only=True)


def _assert_same(a: object, b: object, where: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            _assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            _assert_same(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def test_a_run_leaves_a_usable_network_with_types_and_resolution(make_run: MakeRun) -> None:
    run = make_run()
    train(run)
    network = load_checkpoint(Path(run.output) / BEST_NAME)
    assert network.facts.mpp == 0.25
    assert [kind.name for kind in network.facts.types][:2] == ["background", "miscellaneous"]
    assert network.facts.notes["validation"].keys() >= {"PQ", "Dice", "AJI", "F_d", "F_epithelial"}
    assert (Path(run.output) / "settings.yaml").is_file()


def test_logs_name_every_loss_term_and_show_a_panel(make_run: MakeRun) -> None:
    run = make_run()
    train(run)
    events = EventAccumulator(str(Path(run.output) / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    terms = {
        f"loss/{name}" for name in ("total", "np_ce", "np_dice", "hv_mse", "hv_msge", "nc_ce", "nc_dice")
    }
    assert terms <= set(tags["scalars"])
    assert {"validation/PQ", "train/learning_rate"} <= set(tags["scalars"])
    assert tags["images"] == ["validation"]


def test_validation_leaves_a_page_of_all_its_scores(make_run: MakeRun) -> None:
    run = make_run()
    train(run)
    page = (Path(run.output) / "validation.html").read_text(encoding="utf-8")
    scores = load_checkpoint(Path(run.output) / LAST_NAME).facts.notes["validation"]
    for words in (
        "Validation, phase 1 epoch 2",
        "95 % interval",
        "95 % of 1,000 bootstrap resamples",
        f"{scores['PQ']:.3f}",
        "F_epithelial",
        'class="pair"',
    ):
        assert words in page


@pytest.fixture
def start(make_run: MakeRun, tmp_path: Path) -> str:
    """A checkpoint of the tiny network to start from."""
    path = tmp_path / "start.pt"
    save_checkpoint(build_training(make_run()).network, path)
    return str(path)


def test_a_frozen_encoder_of_random_weights_is_refused(make_run: MakeRun) -> None:
    run = make_run(phases=[PhaseSettings(epochs=1, batch_size=2, freeze_encoder=True)])
    with pytest.raises(ValueError, match="set train.start_from"):
        build_training(run)


def test_a_frozen_encoder_keeps_weights_and_batch_norm_statistics(make_run: MakeRun, start: str) -> None:
    run = make_run(phases=[PhaseSettings(epochs=1, batch_size=2, freeze_encoder=True)], start_from=start)
    parts = build_training(run)
    before = copy.deepcopy(parts.network.state_dict())
    Trainer(parts, run).train()
    after = parts.network.state_dict()
    frozen = {key for key in before if key.startswith("encoder.")}
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert not all(torch.equal(before[key], after[key]) for key in before.keys() - frozen)


def test_the_second_phase_trains_the_encoder_too(make_run: MakeRun, start: str) -> None:
    phases = [
        PhaseSettings(epochs=1, batch_size=2, freeze_encoder=True),
        PhaseSettings(epochs=1, batch_size=4, learning_rate=1e-3),
    ]
    run = make_run(phases=phases, start_from=start)
    parts = build_training(run)
    before = parts.network.encoder[0].conv1.weight.detach().clone()
    progress = Trainer(parts, run).train()
    assert progress.phase == 2
    assert not torch.equal(before, parts.network.encoder[0].conv1.weight)


ARGUMENTS = [
    "model=lite", "model.num_stages=2", "model.decoder_channels=[8]", "model.margin=0",
    "augmentation=random_crop",
    "train.phases=[{epochs: 4, batch_size: 2, learning_rate: 0.001, schedule: cosine, warmup_steps: 3}]",
    "train.input_size=64", "train.precision=fp32", "train.ema_decay=0.9", "train.checkpoint_every=1",
    "train.num_workers=1", "train.validate_every=4", "device=cpu",
]  # fmt: skip


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    tiny_patches: Path, tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "run_train.py"), *ARGUMENTS, f"data.patches={tiny_patches}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    unbroken = [*command, f"output={tmp_path / 'unbroken'}"]
    subprocess.run(unbroken, check=True, capture_output=True, env=environment)
    broken = tmp_path / "broken"
    command.append(f"output={broken}")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    while not _has_reached(broken / STATE_NAME, step=5):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -9
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert "resumed after step" in result.stderr
    states = [torch.load(path / STATE_NAME, weights_only=True) for path in (tmp_path / "unbroken", broken)]
    assert states[0]["progress"] == states[1]["progress"]
    _assert_same(states[0]["states"], states[1]["states"])


def _has_reached(path: Path, step: int) -> bool:
    return path.is_file() and torch.load(path, weights_only=True)["progress"]["step"] >= step


def test_other_settings_are_refused_by_name(make_run: MakeRun) -> None:
    train(make_run())
    with pytest.raises(ValueError, match=r"train.ema_decay was 0.9, is 0.5"):
        train(make_run(ema_decay=0.5))


def test_a_finished_run_started_again_changes_nothing(make_run: MakeRun) -> None:
    run = make_run()
    train(run)
    before = _state(run)
    train(run)
    _assert_same(before["states"], _state(run)["states"])


def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_term(make_run: MakeRun) -> None:
    run = make_run()
    parts = build_training(run)
    loss = parts.loss

    def broken_loss(maps: object, targets: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, terms = loss(maps, targets)
        broken = terms["hv_mse"] * torch.nan
        return total + broken, {**terms, "hv_mse": broken}

    parts.loss = broken_loss
    with pytest.raises(FloatingPointError, match="^loss hv_mse, total is not finite"):
        Trainer(parts, run).train()
    assert not (Path(run.output) / STATE_NAME).exists()


def test_a_gradient_that_overflows_does_not_replace_the_good_state(make_run: MakeRun) -> None:
    run = make_run()
    parts = build_training(run)
    trainer = Trainer(parts, run)
    trainer._save_state()
    with torch.no_grad():
        parts.network.heads["np"][3].bias[0] = torch.inf
    with pytest.raises(FloatingPointError, match="a gradient overflowed"):
        trainer._save_state()
    saved = torch.load(Path(run.output) / STATE_NAME, weights_only=True)["states"]["network"]
    assert all(value.isfinite().all() for value in saved.values())


def test_a_run_without_validation_leaves_its_last_network(make_run: MakeRun) -> None:
    run = make_run()
    parts = build_training(run)
    parts.validator = None
    Trainer(parts, run).train()
    assert load_checkpoint(Path(run.output) / LAST_NAME).num_types == 5
    assert not (Path(run.output) / BEST_NAME).exists()


def test_the_state_of_a_run_is_no_checkpoint_and_says_where_that_is(make_run: MakeRun) -> None:
    run = make_run()
    train(run)
    with pytest.raises(ValueError, match=r"use best.pt or last.pt"):
        load_checkpoint(Path(run.output) / STATE_NAME)


def test_layers_that_draw_give_the_same_weights_after_a_resumption(make_run: MakeRun) -> None:
    states = []
    for name, epochs in (("unbroken", [2]), ("broken", [1, 2])):
        for stop in epochs:
            run = make_run(name, phases=[PhaseSettings(epochs=2, batch_size=2, learning_rate=1e-3)])
            run.model.encoder, run.model.num_stages = "efficientnet_b0", 4
            trainer = Trainer(build_training(run), run)
            while trainer.progress.epoch < stop:
                phase = run.train.phases[0]
                loader = iter(trainer._make_loader(2, 3, stop))
                trainer._run_epoch(phase, loader, 3, tqdm(disable=True))
        states.append(_state(run)["states"]["network"])
    _assert_same(*states)


def test_a_phase_without_gain_stops_early(make_run: MakeRun) -> None:
    run = make_run(phases=[PhaseSettings(epochs=50, batch_size=2, learning_rate=1e-12)], early_stop=2)
    train(run)
    assert _state(run)["progress"]["step"] < 50 * 3


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_accumulated_batches_give_the_gradient_of_their_mean(make_run: MakeRun, accumulate: int) -> None:
    phase = PhaseSettings(epochs=1, batch_size=1, learning_rate=0.5, schedule="constant")
    run = make_run(phases=[phase], accumulate=accumulate, max_steps=0, ema_decay=0.0)
    parts = build_training(run)
    parts.num_patches = 4
    weight = parts.network.heads["np"][3].bias
    before = weight.detach().clone()
    parts.loss = lambda maps, targets: (weight.sum(), {})
    trainer = Trainer(parts, run)
    trainer.optimizer = torch.optim.SGD([weight], lr=0.5)
    trainer.train()
    steps = -(-4 // accumulate)  # a short last group counts as a whole step
    torch.testing.assert_close(weight.detach(), before - 0.5 * steps)


def test_view_writes_a_contact_sheet(make_run: MakeRun) -> None:
    run = make_run()
    run.view = True
    train(run)
    sheet = cv2.imread(str(Path(run.output) / "contact_sheet.png"))
    assert sheet.shape[0] > 256
    assert not (Path(run.output) / STATE_NAME).exists()


def test_missing_patches_say_what_to_run(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    run.data.patches = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="extract_patches.py"):
        train(run)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_trains_on_a_gpu(make_run: MakeRun, precision: str) -> None:
    run = make_run(precision=precision)
    run.device = "cuda"
    train(run)
    assert (Path(run.output) / BEST_NAME).is_file()
