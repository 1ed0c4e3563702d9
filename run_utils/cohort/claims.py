"""Who has which slide of a cohort, where no driver says so: a small file each, which its holder has locked."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from run_utils.inference.status import SlideStatus

FOLDER_NAME = ".claims"
JOBS_NAME = "jobs"  # in that folder: who was sent to work on them
STARTED, FAILED, PAUSED, OVER, END = b"s", b"f", b"p", b".", b"\n"


class Claim:
    """What became of a slide, as long as this process has it: a byte for each start, failure and pause, and its end.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file.seek(0)
        self._content = self._file.read()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return OVER in self._content

    @property
    def failures(self) -> int:
        """How often it failed."""
        return self._content.count(FAILED)

    @property
    def losses(self) -> int:
        """How many workers were lost in the middle of it."""
        return _count_losses(self._content)

    def start(self) -> None:
        """Write down that this process starts with it."""
        self._add(STARTED)

    def fail(self) -> None:
        """Write down that it failed."""
        self._add(FAILED)

    def pause(self) -> None:
        """Write down that this process is ended from outside, if it is in the middle of it."""
        if self._content.endswith(STARTED):
            self._add(PAUSED)

    def end(self, status: SlideStatus) -> None:
        """Write down how it ended, for good."""
        self._add(OVER + json.dumps(dataclasses.asdict(status)).encode() + END)

    def close(self) -> None:
        """Let others have it."""
        self._file.close()

    def _add(self, event: bytes) -> None:
        self._content += event
        self._file.write(event)


class Claims:
    """Those of one run of a cohort; its workers find none once a later run has begun.

    Args:
        folder: of the cohort; its file system must know `flock`.
        run: its name; None for a new run, which the claims are made for.
    """

    def __init__(self, folder: Path, run: str | None = None) -> None:
        self.run = run or uuid.uuid4().hex
        self._folder = folder / FOLDER_NAME / self.run
        if run is None:
            self._folder.mkdir(parents=True)

    @contextmanager
    def take(self, name: str) -> Iterator[Claim | None]:
        """Give the claim on a slide; None where another process, on any machine, has it, or a later run has begun."""
        try:
            claim = Claim(self._folder / name)
        except (BlockingIOError, FileNotFoundError):
            yield None
            return
        try:
            yield claim
        finally:
            claim.close()

    def read_ends(self, names: Iterable[str]) -> list[SlideStatus]:
        """Return how slides ended, of those that have.

        Raises:
            FileNotFoundError: a later run has begun, and this one is over.
        """
        begun = set(os.listdir(self._folder))  # noqa: PTH208
        ends = []
        for name in begun.intersection(names):
            content = (self._folder / name).read_bytes()
            if content.endswith(END):
                ends.append(SlideStatus(**json.loads(content.partition(OVER)[2])))
        return sorted(ends, key=lambda end: end.name)

    def count_losses(self, name: str) -> int:
        """Return how many workers were lost in the middle of a slide."""
        path = self._folder / name
        return _count_losses(path.read_bytes()) if path.exists() else 0

    def count_events(self) -> int:
        """Return how much was written down so far, of all slides."""
        return sum(path.stat().st_size for path in self._folder.iterdir())

    def add_jobs(self, jobs: Sequence[str]) -> None:
        """Write down who was sent to work on them."""
        with (self._folder.parent / JOBS_NAME).open("a") as file:
            file.writelines(f"{job}\n" for job in jobs)


def _count_losses(content: bytes) -> int:
    return content.count(STARTED) - content.count(FAILED) - content.count(PAUSED)


def read_jobs(folder: Path) -> list[str]:
    """Return who was sent to work on the claims of a cohort's last run."""
    path = folder / FOLDER_NAME / JOBS_NAME
    return path.read_text().split() if path.exists() else []


def remove_claims(folder: Path) -> None:
    """Forget all of a cohort; what is held meanwhile is kept by its journal."""
    shutil.rmtree(folder / FOLDER_NAME, ignore_errors=True)
