"""What a run leaves for tables over runs: its record, and the scores of its best network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from config.schema import PhaseSettings, TrainingRun
from models.hovernet.checkpoint import load_checkpoint
from run_utils.training.checkpoints import BEST_NAME
from run_utils.training.record import read_record, read_scores
from run_utils.training.run import train

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
