"""The command that measures predictions: its tables, its files, its exit status."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from run_utils.outputs import write_output
from tests.conftest import ROOT
from tests.results import ellipses, make_result

LABELS = ellipses()
TYPES = 2 - np.arange(1, LABELS.max() + 1) % 2  # as make_result gives them


def run(*settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "compute_stats.py"), *settings]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    (tmp_path / "true").mkdir()
    for number in (1, 2):
        kept = np.where(12 - 2 * number < LABELS, 0, LABELS)
        savemat(tmp_path / "true" / f"tile {number}.mat", {"inst_map": LABELS, "inst_type": TYPES})
        write_output(make_result(kept, name=f"tile {number}"), tmp_path / "run", "json")
        write_output(make_result(LABELS, name=f"tile {number}"), tmp_path / "better", "store")
    return tmp_path


def test_a_run_is_measured_and_compared_with_another_in_one_command(folders: Path) -> None:
    result = run(
        f"true={folders / 'true'}",
        f"predicted={folders / 'run'}",
        f"against={folders / 'better'}",
        f"output={folders / 'scores'}",
        "mode=all",
        "resamples=100",
    )
    assert result.returncode == 0, result.stderr
    assert "95 % interval" in result.stdout
    names = {"stats.csv", "stats.json", "scores.csv", "confusion.csv", "differences.csv"}
    names |= {"report.html", "report.tex"}
    assert {path.name for path in (folders / "scores").iterdir()} == names
    with (folders / "scores" / "differences.csv").open(newline="") as file:
        worse = {(row["score"], row["group"]): row["value"] for row in csv.DictReader(file)}
    # 18 of 24 nuclei, half of each type
    assert float(worse["mPQ+", ""]) == pytest.approx(2 * 18 / (24 + 18) - 1)


def test_bad_files_end_in_a_line_each_and_status_one(folders: Path) -> None:
    savemat(folders / "true" / "tile 2.mat", {"inst_map": -LABELS, "inst_type": TYPES})
    savemat(folders / "true" / "alone.mat", {"inst_map": LABELS, "inst_type": TYPES})
    result = run(f"true={folders / 'true'}", f"predicted={folders / 'run'}", "resamples=0")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "failed: tile 2: " in result.stdout and "holds id -12; ids start at 1" in result.stdout
    assert "1 without a prediction: alone; predict them" in result.stdout
    assert "tile 1" in result.stdout


def test_a_setting_that_is_not_known_ends_in_one_line(folders: Path) -> None:
    result = run(f"true={folders / 'true'}", f"predicted={folders / 'run'}", "mode=both")
    assert result.returncode == 2
    assert "use one of: instance, type, all" in result.stderr
    assert len(result.stderr.splitlines()) == 1
