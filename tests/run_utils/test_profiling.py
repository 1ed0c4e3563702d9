"""Profiles: traces that are Chrome's JSON with the stages in it, and tables that add up."""

from __future__ import annotations

import gzip
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.profiler import record_function

from config.schema import PhaseSettings, TrainingRun
from run_utils.profiling import format_stages, profile_to
from run_utils.training.run import train
from run_utils.training.step_profile import NUM_STEPS, STAGES_NAME, TIMED, TRACED

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRun = Callable[..., TrainingRun]
STAGES = ("wait for data", "transforms", "forward", "loss", "backward", "optimizer")


def _count_ranges(path: Path) -> Counter[str]:
    """Return how often a trace holds each named range; fails where it is not Chrome's format."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    complete = [event for event in events if event["ph"] == "X" and event.get("cat") == "user_annotation"]
    assert all(event["dur"] >= 0 and "ts" in event for event in complete)
    return Counter(event["name"] for event in complete)


def test_a_trace_holds_the_active_steps_alone(tmp_path: Path) -> None:
    with profile_to(tmp_path / "profile", name="test", wait=2, warmup=1, active=2) as tracer:
        for step in range(8):
            with record_function(f"step {step}"):
                torch.ones(4).sum()
            tracer.step()
    (path,) = (tmp_path / "profile").iterdir()
    assert path == tracer.path
    assert path.name.startswith("test.")
    assert path.name.endswith(".pt.trace.json.gz")  # what TensorBoard's plugin looks for
    ranges = _count_ranges(path)
    assert {name for name in ranges if name.startswith("step ")} == {"step 3", "step 4"}


def test_without_a_folder_nothing_is_traced(tmp_path: Path) -> None:
    with profile_to(None, name="test", wait=0, warmup=0, active=1) as tracer:
        tracer.step()
    assert tracer.path is None
    assert not list(tmp_path.iterdir())


def test_a_run_too_short_for_a_trace_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with profile_to(tmp_path / "profile", name="test", wait=4, warmup=1, active=1) as tracer:
        tracer.step()
    assert "no trace: the run ended 5 steps too early" in caplog.text
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("all_threads", [False, True])
def test_other_threads_are_traced_where_asked(tmp_path: Path, all_threads: bool) -> None:
    def work() -> None:
        with record_function("in a thread"):
            torch.ones(4).sum()

    with profile_to(tmp_path, name="test", wait=0, warmup=1, active=1, all_threads=all_threads) as tracer:
        tracer.step()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        tracer.step()
    assert tracer.path is not None
    assert ("in a thread" in _count_ranges(tracer.path)) == all_threads


def test_a_table_of_stages_adds_up() -> None:
    table = format_stages({"read": 1.0, "work": 2.5}, 4.0, unit="ms a patch", scale=1000 / 8, digits=1)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == ["stage", "s", "share", "ms a patch"]
    assert rows[2:] == [
        ["read", "1.0", "25.0%", "125.0"],
        ["work", "2.5", "62.5%", "312.5"],
        ["the rest", "0.5", "12.5%", "62.5"],
        ["together", "4.0", "100.0%", "500.0"],
    ]


@pytest.fixture
def profiled(make_run: MakeRun) -> TrainingRun:
    """Settings of a run of as many steps as a profile takes, and some more."""
    epochs = NUM_STEPS // 3 + 1
    run = make_run(phases=[PhaseSettings(epochs=epochs, batch_size=2)], validate_every=epochs)
    run.profile = True
    return run


def test_a_profiled_run_leaves_a_trace_and_a_table_and_goes_on(
    profiled: TrainingRun, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(profiled)
    folder = Path(profiled.output) / "profile"
    (trace,) = folder.glob("*.pt.trace.json.gz")
    ranges = _count_ranges(trace)
    assert {name: ranges[name] for name in STAGES} == dict.fromkeys(STAGES, TRACED)
    table = (folder / STAGES_NAME).read_text(encoding="utf-8")
    assert table.startswith(f"{TIMED} steps, {2 * TIMED} patches, ")
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")][2:]
    seconds = {name.strip(): float(spent) for name, spent, *_ in rows}
    assert list(seconds) == [*STAGES, "the rest", "together"]
    total = seconds.pop("together")
    assert sum(seconds.values()) == pytest.approx(total, abs=0.005)
    assert table.split("\n\n")[1].strip() in caplog.text
    assert "done after 21 steps" in caplog.text

    profiled.profile = False  # another setting, that does not make another run
    train(profiled)
    assert "resumed after step 21" in caplog.text
