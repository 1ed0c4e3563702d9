"""Memory that a process and its worker both see: tiles and maps go through it, without a copy through a pipe."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes, of a cache line


class SharedArrays:
    """Arrays in an unnamed file: it grows as needed, and is gone when the last process that has it open ends.

    Args:
        descriptor: of the file, in a worker that inherited it; None makes one.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._memory: mmap.mmap | None = None
        if descriptor is None:
            descriptor = _open_unnamed()
            weakref.finalize(self, os.close, descriptor)
        self.descriptor = descriptor

    def view(self, shapes: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return the arrays that lie there: the first uint8, the others float32.

        Both processes get the same arrays for the same shapes, until either asks for others.
        """
        dtypes: list[np.dtype[Any]] = [np.dtype(np.uint8), *[np.dtype(np.float32)] * (len(shapes) - 1)]
        starts, end = [], 0
        for shape, dtype in zip(shapes, dtypes, strict=True):
            starts.append(end)
            end += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        memory = self._map(end)
        return [
            np.ndarray(shape, dtype, buffer=memory, offset=start)
            for shape, dtype, start in zip(shapes, dtypes, starts, strict=True)
        ]

    def _map(self, size: int) -> mmap.mmap:
        if self._memory is None or len(self._memory) < size:
            if os.fstat(self.descriptor).st_size < size:
                os.ftruncate(self.descriptor, size)
            self._memory = mmap.mmap(self.descriptor, 0)
        return self._memory


def _open_unnamed() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("hovernet")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
