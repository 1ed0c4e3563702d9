"""A cohort as jobs of Slurm, through submitit: each takes what nobody has and what is not done, the largest first."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from config.schema import InferSettings
from dataloader.address import Address, locate
from run_utils.cohort.claims import Claim, Claims, remove_claims
from run_utils.cohort.folder import meeting_dir
from run_utils.cohort.schedule import MOST_LOSSES
from run_utils.cohort.worker import Worker
from run_utils.inference.hold import holding_address
from run_utils.inference.status import FAILED, SlideStatus

try:
    import submitit
except ImportError as error:
    raise ValueError(
        "launch=slurm needs submitit, not installed here: "
        "uv pip install -r pyproject.toml --extra slurm -c constraints.txt"
    ) from error

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
JOBS_DIR = "jobs"  # in the output folder: what jobs were told and what they say
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
MOST_TIME_LIMITS = 1000  # that a job may meet, each time going on
ERROR_LINE = re.compile(r"[\w.]+(Error|Exception|Interrupt): ")  # the last line of a traceback
LOST = "its jobs were lost, each in the middle of it, perhaps for want of memory; see the folder `jobs`"


def run_on_slurm(
    settings: InferSettings, files: Mapping[str, Path | Address], costs: Mapping[str, float]
) -> Generator[SlideStatus, None, None]:
    """Give the end of each slide as it comes; jobs that ended early are followed by others.

    Args:
        settings: of the run.
        files: slides by name.
        costs: of each slide, in any one unit.

    Raises:
        ValueError: no job did anything, there is no Slurm here, or it refuses the jobs.
    """
    ordered = {name: files[name] for name in sorted(files, key=lambda name: -costs[name])}
    folder = meeting_dir(settings)
    claims, left, num_events = Claims(folder), set(files), -1
    jobs: Sequence[Any] = ()
    while left and claims.count_events() > num_events:  # where jobs were lost, others go on
        num_events = claims.count_events()
        jobs = _submit(settings, Job(settings, ordered, claims.run))
        claims.add_jobs([job.job_id for job in jobs])
        for end in _follow(jobs, claims, left):
            left.remove(end.name)
            yield end
        if not claims.count_events():
            raise ValueError(f"no job did anything; see {folder / JOBS_DIR}: {_describe(jobs)}")
    for name in sorted(left):
        reason = LOST if claims.count_losses(name) else f"no job came to it: {_describe(jobs)}"
        yield SlideStatus(name, FAILED, reason)
    remove_claims(folder)


def _follow(jobs: Sequence[Any], claims: Claims, names: Iterable[str]) -> Iterator[SlideStatus]:
    """Give the ends of slides as jobs write them down; what is queued still once all have ended is not waited for."""
    left = set(names)
    with closing(_wait(jobs)) as moments:
        for _ in moments:
            ends = claims.read_ends(left)
            left -= {end.name for end in ends}
            yield from ends
            if not left:
                return


def _submit(settings: InferSettings, job: Job) -> list[Any]:
    launch = settings.launch
    gpus = int(launch.gpus) if launch.gpus >= 0 else 1
    asked: dict[str, Any] = {
        "name": "nuclei",
        "timeout_min": launch.minutes,
        "cpus_per_task": launch.cpus or None,
        "gpus_per_node": gpus or None,
        "mem_gb": launch.memory_gb or None,
        "slurm_partition": launch.partition or None,
        "slurm_array_parallelism": max(launch.workers, 1),
    }
    limits = {f"{launch.cluster}_max_num_timeout": MOST_TIME_LIMITS}
    try:
        executor = submitit.AutoExecutor(meeting_dir(settings) / JOBS_DIR, launch.cluster, **limits)
    except RuntimeError as error:
        raise ValueError(f"launch=slurm finds no Slurm here: {error}; run it on a login node") from error
    executor.update_parameters(**{name: value for name, value in asked.items() if value is not None})
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    try:
        with executor.batch():  # one array of jobs
            jobs = [executor.submit(job) for _ in range(max(launch.workers, 1))]
    except submitit.core.utils.FailedJobError as error:  # what sbatch said
        said = " ".join(str(error).split())
        raise ValueError(
            f"Slurm refuses the jobs ({said}); check launch.partition={launch.partition} launch.gpus={gpus} "
            f"launch.cpus={launch.cpus} launch.memory_gb={launch.memory_gb} launch.minutes={launch.minutes}"
        ) from error
    logger.info("jobs %s; what they say is in %s", ", ".join(job.job_id for job in jobs), executor.folder)
    return jobs


def _wait(jobs: Sequence[Any]) -> Generator[None, None, None]:
    """Give the moments at which it is worth looking at what jobs have done, the last one after all have ended.

    Where it is closed before, it cancels those that are left.
    """
    pause = SHORTEST_PAUSE_S
    try:
        while not all(job.done() for job in jobs):
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE_S)
            yield
    finally:
        for job in jobs:
            if not job.done():
                job.cancel(check=False)  # it may just have ended
    yield


def _describe(jobs: Sequence[Any]) -> str:
    """Return what ended the last of some jobs, on one line."""
    errors = [str(error) for job in jobs if (error := job.exception()) is not None]
    lines = [line for error in errors for line in error.splitlines() if ERROR_LINE.match(line)]
    return lines[-1] if lines else "they ended without a word"


class Job:
    """What one job does; one that meets its time limit is queued again as it is.

    Args:
        settings: of the run.
        files: slides by name, the largest first.
        run: name of the claims; where a later run has begun, there are none, and nothing is left to do.
    """

    def __init__(self, settings: InferSettings, files: Mapping[str, Path | Address], run: str) -> None:
        self._settings = settings
        self._files = files
        self._run = run
        self._claim: Claim | None = None

    def __call__(self) -> None:
        """Do what nobody has, until nothing is left."""
        self._claims = Claims(meeting_dir(self._settings), self._run)
        if not self._find_left():
            return
        # each job holds the address: they go on where the run that sent them is killed
        with holding_address(locate(self._settings.output)):
            self._worker = Worker(self._settings, self._settings.launch.cpus)
            self._worker.start()
            while sum(
                self._try(name) for name in self._find_left()
            ):  # another pass: jobs may be lost meanwhile
                pass

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what to queue again: the journals know how far the slides are, and no worker was lost."""
        if self._claim is not None:
            self._claim.pause()
        return submitit.helpers.DelayedSubmission(Job(self._settings, self._files, self._run))

    def _find_left(self) -> list[str]:
        """Return the slides that are not over; none where a later run has begun."""
        try:
            over = {end.name for end in self._claims.read_ends(self._files)}
        except FileNotFoundError:
            return []
        return [name for name in self._files if name not in over]

    def _try(self, name: str) -> bool:
        """Do a slide unless another job has it; return whether it was tried."""
        with self._claims.take(name) as claim:
            if claim is None or claim.is_over or claim.losses >= MOST_LOSSES:
                return False
            self._claim = claim
            claim.start()
            status = self._worker.run(name, self._files[name])
            if status.status == FAILED:
                claim.fail()
                if claim.failures < self._settings.launch.attempts:
                    return True
            claim.end(status)
            return True
