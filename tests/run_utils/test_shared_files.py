"""Files and folders that several processes and machines write to."""

from __future__ import annotations

import fcntl
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from run_utils.files import append, locking
from run_utils.inference.record import LINES_NAME, FolderRecord


@contextmanager
def no_file_larger_than(num_bytes: int) -> Iterator[None]:
    """Let writes stop at a size, as a full disk does: some bytes, then none."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_folder_is_locked_by_a_file_in_it_so_that_file_servers_tell_other_machines(tmp_path: Path) -> None:
    with locking(tmp_path):
        (lock,) = tmp_path.iterdir()
        assert stat.S_ISREG(lock.stat().st_mode)
        with lock.open("r+b") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_bytes_are_appended_whole_or_not_at_all(tmp_path: Path) -> None:
    with (tmp_path / "a").open("ab", buffering=0) as file, no_file_larger_than(30):
        append(file, b"-" * 20)
        with pytest.raises(OSError, match="too large"):
            append(file, b"+" * 20)
    assert (tmp_path / "a").read_bytes() == b"-" * 20


def test_a_slide_whose_line_does_not_fit_on_the_disk_is_not_taken_for_recorded(tmp_path: Path) -> None:
    record = FolderRecord(tmp_path)
    with record.editing() as content:
        content |= {"settings": {}, "slides": {}}
    record.put_slide("a", {"status": "done"})
    size = (tmp_path / LINES_NAME).stat().st_size
    with no_file_larger_than(size + 20), pytest.raises(OSError, match="too large"):
        record.put_slide("b", {"status": "done", "reason": "-" * 100})
    assert (tmp_path / LINES_NAME).stat().st_size == size
    assert record.slide("a") and not record.slide("b")
