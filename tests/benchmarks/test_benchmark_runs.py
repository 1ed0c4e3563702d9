"""Benchmarks as processes of their own: all of them are known, and one that fails does not stop the rest."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import benchmarks.all
from benchmarks.all import BENCHMARKS, NEEDS, choose
from benchmarks.figures import Figure
from benchmarks.runs import (
    DONE,
    FAILED,
    LEFT_OUT,
    Benchmark,
    Result,
    describe_machine,
    load,
    run,
    save,
    without_paths,
)
from tests.conftest import ROOT
from tests.waiting import is_running, wait_until

STATES = "from benchmarks.figures import Figure, state; print('a word'); state(Figure('a', 2.0, 's', 4.0, 'plainly'))"


def benchmark(name: str, code: str, **settings: object) -> Benchmark:
    return Benchmark(name, "network", ("-c", code), **settings)  # type: ignore[arg-type]


def test_every_benchmark_with_a_command_is_in_the_table() -> None:
    paths = (ROOT / "benchmarks").glob("*.py")
    commands = {path.stem for path in paths if '__name__ == "__main__"' in path.read_text()} - {"all"}
    assert {row.name for row in BENCHMARKS} == commands
    assert len(BENCHMARKS) == len(commands)
    assert all(row.command[:2] == ("-m", f"benchmarks.{row.name}") for row in BENCHMARKS)
    assert {need for row in BENCHMARKS for need in row.needs} <= set(NEEDS)


def test_long_benchmarks_run_only_where_they_are_named() -> None:
    assert "stain_training" not in {row.name for row in choose("")}
    assert [row.name for row in choose("targets, stain_training")] == ["stain_training", "targets"]
    with pytest.raises(SystemExit, match="nonsense not known; use"):
        choose("targets,nonsense")


def test_figures_and_print_of_a_process_are_kept(tmp_path: Path) -> None:
    result = run(benchmark("good", STATES), tmp_path / "good.txt", needs={})
    assert (result.status, result.reason) == (DONE, "")
    assert result.figures == [Figure("a", 2.0, "s", 4.0, "plainly")]
    assert (tmp_path / "good.txt").read_text().startswith("a word\na: 2.00 s")
    assert result.environment["cpu"] and result.environment["packages"]["torch"]
    save({"good": result}, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == {"good": result}


def test_a_failure_says_why_and_keeps_what_was_stated_before(tmp_path: Path) -> None:
    result = run(
        benchmark("bad", f"{STATES}; raise SystemExit('the maps differ')"), tmp_path / "bad.txt", needs={}
    )
    assert (result.status, result.reason) == (FAILED, "exit status 1: the maps differ")
    assert len(result.figures) == 1


def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    code = f"{child}; print(p.pid, flush=True); time.sleep(60)"
    start = time.perf_counter()
    result = run(benchmark("endless", code), tmp_path / "endless.txt", needs={}, limit_s=5)
    assert (result.status, result.reason) == (FAILED, "ended after 5 s, its limit")
    assert time.perf_counter() - start < 30
    child_id = int((tmp_path / "endless.txt").read_text())
    wait_until(lambda: not is_running(child_id))


def test_what_is_missing_is_said_and_nothing_runs(tmp_path: Path) -> None:
    needs = {"data": lambda: "the data is not there; fetch it", "there": lambda: ""}
    row = benchmark("lacking", "raise SystemExit('it ran')", needs=("data", "there"))
    result = run(row, tmp_path / "lacking.txt", needs=needs)
    assert (result.status, result.reason) == (LEFT_OUT, "the data is not there; fetch it")


def test_a_failed_benchmark_does_not_stop_the_rest_and_sets_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (benchmark("bad", "raise SystemExit(3)"), benchmark("good", STATES))
    monkeypatch.setattr(benchmarks.all, "BENCHMARKS", rows)
    earlier = Result(DONE, "", [Figure("earlier", 1.0, "s")], 1.0, describe_machine())
    save({"good": earlier}, tmp_path / "performance.json")

    def main(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["all", "--output", str(tmp_path), *arguments])
        return benchmarks.all.main()

    assert main("--only", "bad") == 1
    assert [result.status for result in load(tmp_path / "performance.json").values()] == [DONE, FAILED]
    assert main() == 1
    assert load(tmp_path / "performance.json")["good"].figures[0].what == "a"
    (tmp_path / "performance.md").unlink()
    assert main("--page") == 0
    assert "exit status 3" in (tmp_path / "performance.md").read_text()


def test_what_is_kept_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    text = f"\x1b[31m{ROOT}/samples/a.svs\x1b[0m and {Path.home()}/x\n 10 %\r 90 %\r done  "
    assert without_paths(text) == "samples/a.svs and ~/x\n done"
