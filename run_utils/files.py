"""Files that are there whole or not at all, files and folders that runs share, and words that may name a file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LOCK_NAME = ".lock"  # a file: of folders, NFS tells other machines no locks


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
    """Keep other processes that ask for the same out of a folder while the block runs; a file in it stays."""
    with (folder / LOCK_NAME).open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_locked(path: Path) -> BinaryIO:
    """Open a file for reading and appending, held by this process alone; it and its folder are made if need be.

    Raises:
        BlockingIOError: another process holds it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+b", buffering=0)
        except FileNotFoundError:  # another process has just removed the folder, which was empty
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        if os.fstat(file.fileno()).st_nlink:  # else its holder has just finished and removed it
            return file
        file.close()


def append(file: BinaryIO, data: bytes) -> None:
    """Append all bytes to an unbuffered file, or none where the disk is full.

    Raises:
        OSError: it is.
    """
    before, view = file.seek(0, os.SEEK_END), memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError:
        file.truncate(before)
        raise


def is_file(text: str) -> bool:
    """Return whether a text names a file; one that is too long for a name, at which `Path` raises, does not."""
    return os.path.isfile(text)  # noqa: PTH113
