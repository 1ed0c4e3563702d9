"""Sweeps end to end: runs in a row, then as jobs, then their table and TensorBoard's."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataloader.annotations import open_annotations
from run_utils.extraction import extract_patches, plan_stores
from tests.conftest import ROOT
from tests.drawing import write_tissue
from tests.run_utils.test_hparams import read_tab

TINY = [
    "model=lite", "model.num_stages=2", "model.decoder_channels=[8]", "model.margin=0", "train.max_steps=2",
    "train.phases=[{epochs: 1, batch_size: 2}]", "train.input_size=64", "train.precision=fp32",
    "train.num_workers=0", "device=cpu",
]  # fmt: skip


def start(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_a_sweep_goes_on_as_jobs_and_ends_in_one_table(tmp_path: Path) -> None:
    adapter = open_annotations("consep", write_tissue(tmp_path / "consep"))
    plans = plan_stores(adapter, ["Train", "Test"], num_validation=1)
    extract_patches(adapter, tmp_path / "patches", plans, patch_size=96, patch_step=48)
    work, folder = tmp_path / "work", tmp_path / "work" / "a sweep"
    work.mkdir()
    common = ["--multirun", *TINY, "output=a sweep", f"data.patches={tmp_path / 'patches'}"]

    in_a_row = start("run_train.py", work, *common, "train.weight_decay=-1,0")
    assert in_a_row.returncode == 1, in_a_row.stderr
    assert in_a_row.stderr.rstrip().endswith("1 of 2 runs failed")
    reason = "weight_decay=-1.0 must be 0 or more"
    assert reason in (folder / "weight_decay=-1" / "failed.txt").read_text()
    assert reason in in_a_row.stdout
    state = folder / "weight_decay=0" / "state.pt"
    written = state.stat().st_mtime_ns

    jobs = start(
        "run_train.py", work, *common, "train.weight_decay=0,0.01", "launch=slurm", "launch.cluster=local"
    )
    assert jobs.returncode == 0, jobs.stderr
    assert state.stat().st_mtime_ns == written
    assert (folder / "weight_decay=0.01" / "best.pt").is_file()
    assert [path.name for path in work.iterdir()] == ["a sweep"]

    again = start("compare_runs.py", work, "runs=a sweep")
    assert again.stdout == jobs.stdout
    with (folder / "runs.csv").open(newline="") as file:
        statuses = {row["run"]: row["status"] for row in csv.DictReader(file)}
    assert statuses == {"weight_decay=0": "done", "weight_decay=0.01": "done", "weight_decay=-1": "failed"}

    columns, rows = read_tab(folder)
    assert sorted(row.hparams["train.weight_decay"].number_value for row in rows) == [0, 0.01]
    assert [column.name for column in columns.hparam_infos if column.differs] == ["train.weight_decay"]
