"""Where a machine keeps what it worked out once for itself: measured windows, compiled and exported networks."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "HOVERNET_CACHE"


def cache_dir() -> Path:
    """Return the folder of the cache, made where it is not there; all in it can be deleted.

    It is what the environment variable HOVERNET_CACHE names, else `hovernet` in the user's own folder of caches.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get(VARIABLE) or Path(base) / "hovernet")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
