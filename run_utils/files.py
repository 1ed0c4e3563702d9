"""Files that appear under their names whole or not at all, folders that runs share, and words that may name a file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the name `path` where the block ends without error.

    The temporary path lies beside `path`, unless one on the same file system is given.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locking(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder while the block runs."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_file(text: str) -> bool:
    """Return whether a text names a file; one that is too long for a name, at which `Path` raises, does not."""
    return os.path.isfile(text)  # noqa: PTH113
