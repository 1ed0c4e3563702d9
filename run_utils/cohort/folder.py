"""The folder in which the workers of a cohort meet: one driver holds it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.schema import InferSettings
from dataloader.address import locate
from run_utils.inference.output_folder import working_dir

LOCK_NAME = ".cohort.lock"


def meeting_dir(settings: InferSettings) -> Path:
    """Return the folder where locks and journals of a run are; its file system must know `flock`."""
    return working_dir(locate(settings.output))


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keep other cohort runs out of a folder while the block runs; a dead one holds nothing.

    Raises:
        ValueError: another one is there.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another cohort run is writing to output={folder}: let it end, or give another output="
            ) from error
        yield
