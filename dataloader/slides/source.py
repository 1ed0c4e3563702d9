"""Where the bytes of a TIFF come from: a local file, or an address; for ``TiffReader``."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dataloader.address import Address


class Source(Protocol):
    """A file that is read in parts by any number of threads at once.

    Attributes:
        num_bytes: of the file.
        most_bytes: that are worth asking for at once.
    """

    num_bytes: int
    most_bytes: int

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, number of bytes), fewer where the file ends."""

    def open(self) -> io.BufferedReader:
        """Return the file for a parser, from its start, to be closed by it."""

    def close(self) -> None:
        """Let go of the file."""


def open_source(path: Path | Address) -> Source:
    """Return what reads a file at a path or an address."""
    return RemoteFile(path) if isinstance(path, Address) else LocalFile(path)


class LocalFile:
    """A local file, read with ``os.pread``, which shares no file position."""

    most_bytes = 1  # each tile by itself: more would only lie in memory

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self.num_bytes = os.fstat(self._file.fileno()).st_size

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, number of bytes), fewer where the file ends."""
        return [os.pread(self._file.fileno(), num_bytes, offset) for offset, num_bytes in ranges]

    def open(self) -> io.BufferedReader:
        """Return the file for a parser."""
        return self._path.open("rb")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RemoteFile:
    """A file at an address: what is asked for at once is fetched at once."""

    most_bytes = 2**23  # 8 MiB: a hundred tiles of a window

    def __init__(self, address: Address) -> None:
        self._address = address
        self.num_bytes = int(address.identify()["bytes"])

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, number of bytes), fewer where the file ends."""
        return self._address.read_ranges(ranges)

    def open(self) -> io.BufferedReader:
        """Return the file for a parser."""
        return self._address.open(num_bytes=self.num_bytes)

    def close(self) -> None:
        """Do nothing: connections are the file system's."""
