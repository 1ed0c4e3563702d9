"""How a process deals with the memory of arrays it no longer needs."""

from __future__ import annotations

import ctypes
import functools

import numpy as np

LARGEST_BLOCK = 2**25 - 2**16  # bytes; just below the 32 MiB up to which glibc learns
TRIM_THRESHOLD, MAPPED_BLOCKS, MAX_ARENAS = -1, -4, -8  # glibc's numbers for them in mallopt
NEVER = -1


@functools.cache
def keep_freed_memory() -> None:
    """Let this process, and those it forks, use the memory of freed arrays again.

    As it starts, glibc gives large blocks back to the system as soon as they are freed; the next one is then
    mapped and zeroed page by page: 1,200 page faults a patch, as much time as reading it. The limit rises to the
    largest block ever freed. Where malloc is another one, nothing changes.
    """
    np.empty(LARGEST_BLOCK, dtype=np.uint8)  # freed at once, and never touched


@functools.cache
def keep_large_blocks() -> None:
    """Let this process use freed memory again whatever its size, as for a network's features on a CPU.

    Those of a 1024 px window are hundreds of MB a layer. Mapped and zeroed anew for each, they cost as much as the
    arithmetic. The process then never gives back what it once held. Where malloc is not glibc's, nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(TRIM_THRESHOLD, NEVER)
    mallopt(MAPPED_BLOCKS, 0)
    mallopt(MAX_ARENAS, 1)  # those of threads hold no large blocks
