"""The HParams tab of TensorBoard, read as TensorBoard reads it: a row a run, what differs first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.schema import PhaseSettings, TrainingRun
from run_utils.training.hparams import write_hparams

MakeRun = Callable[..., TrainingRun]


def read_tab(folder: Path) -> tuple[Any, list[Any]]:
    """Return the columns and the rows that TensorBoard's own plugin finds below a folder."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

    events = EventMultiplexer().AddRunsFromDirectory(str(folder))
    events.Reload()
    plugin = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(events, str(folder))))
    asked = api_pb2.GetExperimentRequest(experiment_name="")
    columns = get_experiment.Handler(RequestContext(), plugin, "", asked).run()
    rows = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=100, allowed_statuses=[api_pb2.STATUS_SUCCESS]
    )
    for metric in columns.metric_infos:
        rows.col_params.add(metric=metric.name)
    return columns, list(list_session_groups.Handler(RequestContext(), plugin, "", rows).run().session_groups)


def test_each_run_has_one_row_with_its_settings_and_the_scores_of_its_best_network(
    make_run: MakeRun, tmp_path: Path
) -> None:
    for seed, rate in ((1, 1e-3), (2, 1e-4)):
        run = make_run(phases=[PhaseSettings(learning_rate=rate)])
        run.seed = seed
        log_dir = tmp_path / "sweep" / f"seed={seed}" / "tensorboard"
        for _ in range(2):  # as where a run that has ended is started again
            write_hparams(log_dir, run, {"PQ": 0.5 + seed / 10, "Dice": 0.75}, 40)
    columns, rows = read_tab(tmp_path / "sweep")
    found = {int(row.hparams["seed"].number_value): row for row in rows}
    assert sorted(found) == [1, 2] and len(rows) == 2
    for seed, rate in ((1, 1e-3), (2, 1e-4)):
        assert found[seed].hparams["train.phases.0.learning_rate"].number_value == pytest.approx(rate)
        assert found[seed].hparams["model.name"].string_value == "HoVerNetLite"
        values = {
            metric.name.tag: (metric.value, metric.training_step) for metric in found[seed].metric_values
        }
        assert values == {"best/PQ": (pytest.approx(0.5 + seed / 10), 40), "best/Dice": (0.75, 40)}
    names = [column.name for column in columns.hparam_infos]
    assert [column.name for column in columns.hparam_infos if column.differs] == names[:2]
    assert set(names[:2]) == {"seed", "train.phases.0.learning_rate"}
    assert not {"output", "device", "train.num_workers", "data.patches"} & set(names)
