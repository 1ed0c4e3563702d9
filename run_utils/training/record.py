"""What a run leaves for tables over runs: where it stands, what it took, and the scores of its best network."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from metrics.report import write_json

if TYPE_CHECKING:  # what reads a record, such as a table, starts without torch
    from run_utils.evaluation_report import EvaluationReport
    from run_utils.training.checkpoints import Progress
    from run_utils.training.throughput import Usage

logger = logging.getLogger(__name__)

RECORD_NAME = "record.json"
SCORES_NAME = "best.json"  # of best.pt
MAIN_SCORES = {
    "PQ": "PQ",
    "Dice": "DICE1",
    "AJI": "AJI",
    "F_d": "F_d",
}  # as people and as evaluations call them
# Seconds. Loader workers hold the lock too, and notice within 5 that their run was killed; `read_status` does shortly.
PATIENCE = 10.0
RETRY_EVERY = 0.2  # seconds
PRESENCE_NAME = ".training"  # locked while a process trains into the folder
FAILURE_NAME = "failed.txt"  # why a run of a sweep failed
PEER_ENDED = "another process of this run has ended"  # said by a process that ends only because another did
DONE, GOING_ON, FAILED, STOPPED = "done", "going on", "failed", "stopped"


class RunRecord:
    """Writes `record.json` beside the state that a run resumes from: its progress in plain numbers, and its cost.

    The cost is that of every attempt up to its last save; what a killed one did after it is not in there.

    Args:
        folder: of the run.
        num_phases: that the run has.
        num_patches: in an epoch.
        device: that it trains on, in words.
        resumes: whether it goes on from an earlier attempt, whose cost counts too.
    """

    def __init__(
        self, folder: Path, *, num_phases: int, num_patches: int, device: str, resumes: bool
    ) -> None:
        self.folder = folder
        self.num_phases = num_phases
        self.num_patches = num_patches
        self.device = device
        before = read_record(folder) if resumes else {}
        self._seconds, self._patches = before.get("seconds", 0.0), before.get("patches", 0)
        self._started = time.perf_counter()

    def write(self, progress: Progress, usage: Usage) -> None:
        """Write where the run stands; `usage` is that of this attempt."""
        patches = self._patches + usage.patches
        content = {
            "is_done": progress.phase >= self.num_phases,
            "step": progress.step,
            "best_pq": progress.best_score if progress.best_score >= 0 else None,
            "seconds": round(self._seconds + time.perf_counter() - self._started, 1),
            "patches": patches,
            "epochs": round(patches / self.num_patches, 2),
            "device": self.device,
        }
        write_json(self.folder / RECORD_NAME, content)


def read_record(folder: Path) -> dict[str, Any]:
    """Return what `RunRecord` wrote into the folder of a run; {} where it wrote nothing yet."""
    return _read(folder / RECORD_NAME)


def write_scores(folder: Path, evaluation: EvaluationReport, *, step: int) -> None:
    """Write the scores of the best network: with intervals, and of each image, so that runs compare image by image."""
    write_json(folder / SCORES_NAME, {"step": step, **evaluation.to_dict()})


def read_scores(folder: Path) -> dict[str, Any]:
    """Return what `write_scores` wrote into the folder of a run; {} where nothing was validated yet."""
    return _read(folder / SCORES_NAME)


def name_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the main scores over the validation images, of what `read_scores` gives; nan where undefined."""
    overall = scores.get("overall", {})
    return {
        name: math.nan if overall[key] is None else float(overall[key])
        for name, key in MAIN_SCORES.items()
        if key in overall
    }


@contextlib.contextmanager
def occupying(folder: Path) -> Iterator[None]:
    """Keep other processes from training into a folder, which is made, while the block runs.

    Raises:
        ValueError: where one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / PRESENCE_NAME).open("ab") as presence:
        end = time.monotonic() + PATIENCE
        while not _lock(presence):
            if time.monotonic() > end:
                raise ValueError(
                    f"another process trains into {folder}: wait for it, or give another output="
                )
            time.sleep(RETRY_EVERY)
        yield


def read_status(folder: Path) -> tuple[str, str]:
    """Return how a run stands, DONE, GOING_ON, FAILED or STOPPED, and why it failed, "" where it did not."""
    if read_record(folder).get("is_done"):
        return DONE, ""
    presence, failure = folder / PRESENCE_NAME, folder / FAILURE_NAME
    if presence.is_file():
        with presence.open("rb") as file:
            if not _lock(file, fcntl.LOCK_SH):
                return GOING_ON, ""
    return (FAILED, failure.read_text(encoding="utf-8").strip()) if failure.is_file() else (STOPPED, "")


def _lock(file: IO[bytes], kind: int = fcntl.LOCK_EX) -> bool:
    """Return False where another process has locked the file; a file system without locks lets all through."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        logger.debug("%s cannot be locked on this file system", file.name)
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
