"""What a run leaves for tables over runs: its record, and the scores of its best network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from config.schema import PhaseSettings, TrainingRun
from models.hovernet.checkpoint import load_checkpoint
from run_utils.training.checkpoints import BEST_NAME
from run_utils.training.record import (
    DONE,
    FAILED,
    FAILURE_NAME,
    GOING_ON,
    STOPPED,
    occupying,
    read_record,
    read_scores,
    read_status,
)
from run_utils.training.run import train
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRun = Callable[..., TrainingRun]


def test_the_scores_of_single_images_are_those_of_the_best_network(make_run: MakeRun) -> None:
    run = make_run()
    train(run)
    scores = read_scores(Path(run.output))
    noted = load_checkpoint(Path(run.output) / BEST_NAME).facts.notes
    images = [np.nan if row["PQ"] is None else row["PQ"] for row in scores["images"].values()]
    assert np.nanmean(images) == pytest.approx(noted["validation"]["PQ"])
    assert scores["step"] == noted["step"]
    assert read_record(Path(run.output))["best_pq"] == pytest.approx(noted["validation"]["PQ"])


def test_the_record_counts_what_every_attempt_took(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(phases=[PhaseSettings(epochs=2, batch_size=2)], validate_every=2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            "run_utils.training.trainer.Trainer._validate", stop
        )  # as Ctrl-C does, in the second epoch
        with pytest.raises(KeyboardInterrupt):
            train(run)
    broken = read_record(Path(run.output))
    assert (broken["step"], broken["patches"], broken["is_done"]) == (3, 6, False)
    train(run)
    whole = read_record(Path(run.output))
    assert (whole["step"], whole["patches"], whole["is_done"]) == (6, 12, True)
    assert whole["seconds"] >= broken["seconds"] > 0


def test_two_processes_do_not_train_into_one_folder(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("run_utils.training.record.PATIENCE", 0.1)
    run = make_run()
    program = (
        "import sys, time; from pathlib import Path; from run_utils.training.record import occupying\n"
        f"with occupying(Path({run.output!r})): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"in\n"
        assert read_status(Path(run.output)) == (GOING_ON, "")
        with pytest.raises(ValueError, match="another process trains into"):
            train(run)
        other.kill()
    assert read_status(Path(run.output)) == (STOPPED, "")
    train(run)
    assert read_status(Path(run.output)) == (DONE, "")


def test_a_killed_run_whose_loader_worker_lives_on_a_while_is_waited_for(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path; from run_utils.training.record import occupying\n"
        f"with occupying(Path({str(tmp_path)!r})):\n"
        "    if os.fork(): print('in', flush=True); time.sleep(60)\n"
        "    time.sleep(1.5); os._exit(0)"  # the worker
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"in\n"
        other.kill()
        other.wait()
        assert read_status(tmp_path) == (GOING_ON, "")
        with occupying(tmp_path):
            pass


def test_a_refused_run_leaves_no_folder(make_run: MakeRun) -> None:
    run = make_run()
    run.data.patches = str(Path(run.output) / "nowhere")
    with pytest.raises(FileNotFoundError, match="no patches at"):
        train(run)
    assert not Path(run.output).exists()


def test_another_attempt_forgets_why_the_one_before_failed(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    Path(run.output).mkdir()
    (Path(run.output) / FAILURE_NAME).write_text("the disk was full\n")
    assert read_status(Path(run.output)) == (FAILED, "the disk was full")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("run_utils.training.trainer.Trainer._validate", stop)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert read_status(Path(run.output)) == (STOPPED, "")
