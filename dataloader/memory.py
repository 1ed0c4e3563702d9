"""How a process that loads patches deals with the memory of arrays it no longer needs."""

from __future__ import annotations

import functools

import numpy as np

LARGEST_BLOCK = 2**25 - 2**16  # bytes; just below the 32 MiB up to which glibc learns


@functools.cache
def keep_freed_memory() -> None:
    """Let this process, and those it forks, use the memory of freed arrays again.

    As it starts, glibc gives large blocks back to the system as soon as they are freed; the next one is then
    mapped and zeroed page by page: 1,200 page faults a patch, as much time as reading it. The limit rises to the
    largest block ever freed. Where malloc is another one, nothing changes.
    """
    np.empty(LARGEST_BLOCK, dtype=np.uint8)  # freed at once, and never touched
