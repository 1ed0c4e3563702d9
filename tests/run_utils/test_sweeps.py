"""Sweeps: names of runs, processes of their own and how they end, what the launcher is told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from config.sweeps import SweepLaunchSettings
from run_utils.entry import CONFIG_DIR, run_command
from run_utils.settings_help import describe_settings
from run_utils.sweeps import launcher_options, name_run, run_apart
from tests.conftest import ROOT
from tests.waiting import is_running, wait_until

# What torchrun's survivor and torchrun itself say last.
SURVIVOR = """train.py: process 0 of 2: another process of this run has ended (lost); start
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
=======
  traceback : To enable traceback
======="""


def test_a_run_is_named_by_the_ends_of_the_names_that_differ() -> None:
    assert name_run({"seed": "1", "train.phases.0.learning_rate": "0.0003"}) == "seed=1,learning_rate=0.0003"
    assert name_run({"train.phases.0.epochs": "5", "train.phases.1.epochs": "9"}) == "0.epochs=5,1.epochs=9"
    assert name_run({}) == ""


def test_names_of_runs_are_safe_short_and_differ() -> None:
    values = ["-1", "1", "data/a b", "'it''s'", "[8,16]", "é*?\n", "x" * 300, "x" * 299 + "y"]
    names = [name_run({"model.decoder_channels": value}) for value in values]
    assert len(set(names)) == len(values)
    assert all(re.fullmatch(r"[\w.+=,-]{1,100}", name) for name in names)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("pass", ""),
        ("import sys; sys.stderr.write('train.py: a=1 must be 2\\nother\\n'); sys.exit(2)", "a=1 must be 2"),
        ("raise KeyError('bug')", "KeyError: 'bug'"),
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, as where memory runs out"),
        (f"raise SystemExit('train.py: a=1 must be 2\\n' + {SURVIVOR!r})", "a=1 must be 2"),
        (f"raise SystemExit('[rank1]: KeyError: 1\\n' + {SURVIVOR!r})", "KeyError: 1"),
        (f"raise SystemExit({SURVIVOR!r}.replace('To enable', 'Signal 9'))", "Signal 9 traceback"),
        (
            f"raise SystemExit({SURVIVOR!r})",
            "process 0 of 2: another process of this run has ended (lost); start",
        ),
    ],
)
def test_a_process_says_why_it_failed(program: str, reason: str) -> None:
    assert run_apart([sys.executable, "-c", program], "train.py") == reason


def test_a_run_ends_with_a_sweep_that_is_killed(tmp_path: Path) -> None:
    number = tmp_path / "pid"
    child = f"import os, time; open({str(number)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"from run_utils.sweeps import run_apart; run_apart([{sys.executable!r}, '-c', {child!r}], 'x')"
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT) as process:
        wait_until(lambda: number.is_file() and number.read_text() != "")
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_running(int(number.read_text())))


def test_settings_of_launching_become_those_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = SweepLaunchSettings("slurm", gpus=2, minutes=60, memory_gb=32, partition="gpu", attempts=5)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="finds no sbatch here"):
        launcher_options(launch, "runs/sweep")
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\n")
    sbatch.chmod(0o755)
    options = launcher_options(launch, "runs/sweep")
    assert options.pop("hydra/launcher") == "submitit_slurm"
    assert {name.removeprefix("hydra.launcher."): value for name, value in options.items()} == {
        "submitit_folder": "runs/sweep/.sweep/jobs/%j",
        "timeout_min": 60,
        "gpus_per_node": 2,
        "mem_gb": 32,
        "partition": "gpu",
        "max_num_timeout": 4,
    }


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train", ["--multirun", "seed=1,2"], "needs one output=FOLDER"),
        ("train", ["-m", "seed=1,2", "output=a,b"], "needs one output=FOLDER"),
        ("train", ["-m", "seed=1,2", "output=a", "launch=ray"], "launch=ray is not known; use one of: local"),
        ("train", ["-m", "seed=1,2", "output=a", "launch.minute=1"], "minute"),
        ("train", ["-m", "seed=1,2", "output=a", "train.bogus=1"], "bogus"),
        ("train", ["-m", "data.patches=a/b,a:b", "output=a"], "two runs would be called patches=a-b"),
        ("train", ["launch=slurm", "output=a"], "add --multirun"),
        ("infer", ["--multirun", "input=a,b", "output=a"], "no --multirun"),
    ],
)
def test_a_sweep_that_cannot_be_right_ends_in_one_line_before_any_run(
    command: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(command, lambda settings: pytest.fail("ran"))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not list(tmp_path.glob("*/*/settings.yaml"))


def test_torchrun_is_not_started_around_a_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["run_train.py", "-m", "seed=1,2", "output=a"])
    with pytest.raises(SystemExit):
        run_command("train", lambda settings: pytest.fail("ran"))
    assert "set launch.gpus=N" in capsys.readouterr().err


def test_options_of_hydra_may_stand_before_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", "--cfg", "job", "runs=a, b", "seed=4"])
    with pytest.raises(SystemExit) as stop:
        run_command("compare", lambda settings: pytest.fail("ran"))
    assert stop.value.code == 0
    assert {"runs: a, b", "seed: 4"} <= set(capsys.readouterr().out.splitlines())


def test_the_runs_of_a_sweep_get_the_options_of_hydra_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tmp_path / "mine" / "experiment"
    experiment.mkdir(parents=True)
    (experiment / "own.yaml").write_text("# @package _global_\nseed: 41\ndata:\n  patches: p\n")
    script = tmp_path / "train.py"
    script.write_text(
        "from pathlib import Path; from run_utils.entry import run_command\n"
        "run_command('train', lambda run: Path(run.output).with_suffix('.seed').write_text(str(run.seed)) and None)"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(
        sys, "argv",
        [str(script), "--config-dir", str(tmp_path / "mine"), "-m", "experiment=own", f"output={tmp_path / 'a'}"],
    )  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        run_command("train", lambda settings: pytest.fail("ran here"))
    assert stop.value.code == 0
    assert (tmp_path / "a.seed").read_text() == "41"


def test_help_lists_what_a_sweep_is_launched_with() -> None:
    assert "launch.minutes=720" in describe_settings("train", CONFIG_DIR)
    assert "launch.minutes=720" not in describe_settings("compare", CONFIG_DIR)
