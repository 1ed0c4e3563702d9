"""How much memory a command and its children hold."""

from __future__ import annotations

import psutil


def resident_of_family(process: psutil.Process) -> int:
    """Return the bytes of resident memory of a process and its children together; 0 once it has ended."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_resident, family))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
