"""The regions that a slide has so far, on disk: a killed run resumes from it, and every writer reads it."""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

import imagecodecs
import numpy as np

from models.nuclei import Nuclei
from run_utils.files import append, open_locked
from run_utils.inference.pipeline import OwnedNuclei
from run_utils.outputs import PackedLabels

MAGIC = b"nuclei journal 1\n"
RECORD_HEAD = Struct("<QI")  # bytes of the payload, and their CRC-32
COLUMNS = tuple(field.name for field in fields(Nuclei))


class JournalBusyError(OSError):
    """Another process works on the slide."""


class JournalClosedError(Exception):
    """The journal was closed before it was finished: what reads it has to stop too."""


class Journal:
    """An append-only file: a head that says what it belongs to, and a record for each region, in order.

    A record counts once it is whole, so that the process may be killed at any moment. One process at a time
    holds a journal (`flock`); within it one thread appends while others read.
    """

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        """Open the journal at `path`, or start it; one whose head differs belongs to other work: start anew.

        Raises:
            JournalBusyError: another process holds it.
        """
        self.path = path
        self._file = hold_journal(path)
        self._changed = threading.Condition()
        self._ends: list[int] = []  # of the records, in bytes
        self._is_finished = False
        self._is_closed = False
        self._start = self._read_head(head)
        self._find_records()

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, owned: OwnedNuclei) -> None:
        """Add the next region.

        Raises:
            OSError: the disk is full; what was there before stays whole.
        """
        payload = _encode(owned)
        record = RECORD_HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        append(self._file, record)
        with self._changed:
            self._ends.append((self._ends[-1] if self._ends else self._start) + len(record))
            self._changed.notify_all()

    def finish(self) -> None:
        """Say that no region will follow."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def records(self) -> Iterator[OwnedNuclei]:
        """Give every region from the first, waiting for those to come.

        Raises:
            JournalClosedError: the journal was closed before it was finished.
        """
        index, start = 0, self._start
        while (end := self._wait_for(index)) is not None:
            yield _decode(os.pread(self._file.fileno(), end - start, start)[RECORD_HEAD.size :])
            index, start = index + 1, end

    def close(self) -> None:
        """Let go of the file; whoever still reads it is stopped."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def release(self) -> None:
        """Close the file once nothing reads it any more, and let other processes have it."""
        self.close()
        self._file.close()

    def _wait_for(self, index: int) -> int | None:
        """Return where record `index` ends once it is there, or None where it will never be."""
        with self._changed:
            self._changed.wait_for(lambda: index < len(self._ends) or self._is_finished or self._is_closed)
            if self._is_closed:
                raise JournalClosedError
            return self._ends[index] if index < len(self._ends) else None

    def _read_head(self, head: dict[str, Any]) -> int:
        """Return where the records start; write the head, and drop what follows, where it is another."""
        encoded = MAGIC + json.dumps(head, sort_keys=True).encode() + b"\n"
        if os.pread(self._file.fileno(), len(encoded), 0) != encoded:
            self._file.truncate(0)
            append(self._file, encoded)
        return len(encoded)

    def _find_records(self) -> None:
        """Index the whole records and cut off what a killed process left unfinished."""
        descriptor, start = self._file.fileno(), self._start
        while True:
            head = os.pread(descriptor, RECORD_HEAD.size, start)
            if len(head) < RECORD_HEAD.size:
                break
            size, checksum = RECORD_HEAD.unpack(head)
            if not 0 < size <= os.fstat(descriptor).st_size - start:
                break
            payload = os.pread(descriptor, size, start + RECORD_HEAD.size)
            if len(payload) < size or zlib.crc32(payload) != checksum:
                break
            start += RECORD_HEAD.size + size
            self._ends.append(start)
        self._file.truncate(start)
        self._file.seek(start)


def remove_journal(path: Path, *others: Path) -> None:
    """Remove a journal and the unfinished files beside it, and the folder if it is empty then.

    Where another process holds the journal, everything stays.
    """
    if not path.exists():
        return
    try:
        file = hold_journal(path)
    except JournalBusyError:
        return
    for left in (*others, path):
        left.unlink(missing_ok=True)
    file.close()
    with suppress(OSError):
        path.parent.rmdir()


def hold_journal(path: Path) -> BinaryIO:
    """Return the file of a journal, held by this process alone until it is closed.

    Raises:
        JournalBusyError: another process holds it.
    """
    try:
        return open_locked(path)
    except BlockingIOError as error:
        raise JournalBusyError(f"{path} is held by another process") from error


def _encode(owned: OwnedNuclei) -> bytes:
    columns = {name: getattr(owned.nuclei, name) for name in COLUMNS}
    arrays = {name: column for name, column in columns.items() if column is not None}
    arrays["labels_box"] = np.array(owned.labels.box_yxyx, np.int64)
    arrays["labels_is_wide"] = np.array(owned.labels.is_wide)
    arrays["labels_data"] = np.frombuffer(owned.labels.data, np.uint8)
    buffer = BytesIO()
    np.savez(buffer, **arrays)
    encoded: bytes = imagecodecs.zstd_encode(buffer.getvalue(), level=1)
    return encoded


def _decode(payload: bytes) -> OwnedNuclei:
    with np.load(BytesIO(imagecodecs.zstd_decode(payload)), allow_pickle=False) as arrays:
        nuclei = Nuclei(**{name: arrays[name] for name in COLUMNS if name in arrays})
        top, left, bottom, right = arrays["labels_box"].tolist()
        labels = PackedLabels(
            (top, left, bottom, right), bool(arrays["labels_is_wide"]), arrays["labels_data"].tobytes()
        )
    return OwnedNuclei(nuclei, labels)
