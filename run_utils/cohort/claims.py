"""Who has which slide of a cohort, where no driver says so: a small file each, which its holder has locked."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from run_utils.inference.status import SlideStatus

FOLDER_NAME = ".claims"
STARTED, FAILED, OVER, END = b"s", b"f", b".", b"\n"


class Claim:
    """What became of a slide, as long as this process has it: a byte for each start, each failure, and its end.

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
        return self._content.count(STARTED) - self.failures

    def start(self) -> None:
        """Write down that this process starts with it."""
        self._add(STARTED)

    def fail(self) -> None:
        """Write down that it failed."""
        self._add(FAILED)

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
    """Those of a cohort.

    Args:
        folder: of the cohort; its file system must know `flock`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER_NAME
        self._folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def take(self, name: str) -> Iterator[Claim | None]:
        """Give the claim on a slide; None where another process, on any machine, has it."""
        try:
            claim = Claim(self._folder / name)
        except BlockingIOError:
            yield None
            return
        try:
            yield claim
        finally:
            claim.close()

    def read_end(self, name: str) -> SlideStatus | None:
        """Return how a slide ended; None as long as it has not."""
        path = self._folder / name
        content = path.read_bytes() if path.exists() else b""
        if not content.endswith(END):
            return None
        return SlideStatus(**json.loads(content.partition(OVER)[2]))

    def count_events(self) -> int:
        """Return how much was written down so far, of all slides."""
        return sum(path.stat().st_size for path in self._folder.iterdir())

    def remove(self) -> None:
        """Forget all; what is held meanwhile is kept by its journal."""
        for path in self._folder.iterdir():
            path.unlink(missing_ok=True)
        self._folder.rmdir()
