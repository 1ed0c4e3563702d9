"""Waiting in tests: for what another thread or process does, as long as it may reasonably take."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 20.0
PAUSE_S = 0.02


def wait_until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Return once a condition holds; AssertionError where it does not in time."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not so within {limit_s:g} s"
        time.sleep(PAUSE_S)


def is_running(pid: int) -> bool:
    """Return whether a process is there, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends while it is looked at
        return False
