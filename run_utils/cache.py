"""Where a machine keeps what it worked out once for itself: measured windows, compiled and exported networks."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

VARIABLE = "HOVERNET_CACHE"


def cache_dir() -> Path:
    """Return the folder of the cache, made where it is not there; all in it can be deleted.

    It is what the environment variable HOVERNET_CACHE names, else `hovernet` in the user's own folder of caches; where
    that cannot be written, a temporary one.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return _usable(Path(os.environ.get(VARIABLE) or Path(base) / "hovernet"))


@functools.cache
def _usable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        instead = Path(tempfile.gettempdir()) / f"hovernet-{os.getuid()}"
        logger.warning(
            "the cache %s cannot be written (%s): %s is used; set %s to another folder",
            folder, error.strerror, instead, VARIABLE,
        )  # fmt: skip
        instead.mkdir(mode=0o700, exist_ok=True)
        return instead
