"""A cohort as jobs, here of submitit's local kind: one that is killed is followed by another, which goes on."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import submitit

from benchmarks.fault_process import find_holder
from config.launch import LaunchSettings
from dataloader.address import Address
from run_utils.cohort.claims import Claims
from run_utils.cohort.folder import meeting_dir
from run_utils.cohort.slurm_cohort import Job, _describe
from run_utils.cohort.worker import Worker
from run_utils.inference.batch_run import infer_all
from run_utils.inference.output_folder import UNFINISHED
from tests.drawing import draw_pairs, paint_tissue
from tests.run_utils.test_ray_cohort import find_size, journal, wait_for
from tests.run_utils.test_slide_run import contents, settings, write_slide


def kill_in_the_middle(path: Path, killed: list[int]) -> None:
    wait_for(lambda: find_size(path) > 8_000)
    killed.append(wait_for(lambda: find_holder(path)))
    os.kill(killed[0], signal.SIGKILL)


def test_a_killed_job_is_followed_by_one_that_goes_on_and_a_bad_slide_fails_the_run(
    checkpoint: Path, tmp_path: Path, one_thread: None, capsys
) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    write_slide(slides / "slide.tif", paint_tissue(draw_pairs((700, 700))))
    (slides / "bad.tif").write_text("no slide")
    assert infer_all(settings(slides, checkpoint, tmp_path / "one_process")) == 1

    chosen = settings(slides, checkpoint, tmp_path / "jobs")
    chosen.launch = LaunchSettings(kind="slurm", cluster="local", cpus=1)
    killed: list[int] = []
    path = journal(tmp_path / "jobs", "slide")
    threading.Thread(target=kill_in_the_middle, args=(path, killed), daemon=True).start()
    assert infer_all(chosen) == 1
    assert killed
    printed = capsys.readouterr().out
    assert "bad: failed" in printed and "1 done, 0 skipped, 1 failed of 2 slides" in printed
    assert contents(tmp_path / "jobs") == contents(tmp_path / "one_process")
    ends = json.loads((tmp_path / "jobs" / "run.json").read_text())["slides"]
    assert {name: end["status"] for name, end in ends.items()} == {"slide": "done", "bad": "failed"}
    logs = [log.read_text() for log in (tmp_path / "jobs" / "jobs").glob("*_log.err")]
    assert sum("slide: goes on after" in log for log in logs) == 1
    assert sum(log.count("bad.tif failed") for log in logs) == 2  # as often as it is to be tried
    assert not (tmp_path / "jobs" / UNFINISHED).exists() and not (tmp_path / "jobs" / ".claims").exists()


def test_what_ended_a_job_is_told_on_one_line(tmp_path: Path) -> None:
    job = submitit.LocalExecutor(tmp_path).submit(Path("/nowhere").read_text)
    with pytest.raises(submitit.core.utils.FailedJobError):
        job.result()
    assert _describe([job]) == "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'"


def test_a_job_holds_an_address_itself_since_the_run_that_sent_it_may_be_killed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOVERNET_SCRATCH", str(tmp_path))
    chosen = settings(tmp_path, checkpoint, tmp_path / "out")
    chosen.output = "memory://jobs"
    lock, held = Address("memory://jobs/run.lock"), []
    monkeypatch.setattr(Worker, "start", lambda worker: held.append(lock.exists()))
    claims = Claims(meeting_dir(chosen))
    with claims.take("slide"):  # by another job, so that this one has nothing to do
        Job(chosen, {"slide": tmp_path}, claims.run)()
    assert held == [True] and not lock.exists()


def test_what_slurm_refuses_is_told_on_one_line(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    for name in ("srun", "sbatch"):  # as a login node answers for a partition that it does not know
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text("#!/bin/sh\necho $(grep -e --array $1) invalid partition: gpux >&2\nexit 1\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "slide.tif").write_text("no slide")
    chosen = settings(tmp_path / "slide.tif", checkpoint, tmp_path / "jobs")
    chosen.launch = LaunchSettings(kind="slurm", partition="gpux", workers=300)
    said = r"refuses the jobs \(.*array=0-299%300 invalid partition.*check launch\.partition=gpux"
    with pytest.raises(ValueError, match=said):  # all of them at once, which Slurm may still limit
        infer_all(chosen)
