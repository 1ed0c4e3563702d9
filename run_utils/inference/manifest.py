"""`run.json` of an output folder: what its results were made with, and how each slide ended."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config.schema import InferSettings
from run_utils.files import replacing
from run_utils.inference.status import DONE, SKIPPED, SlideStatus
from run_utils.provenance import describe_environment

# Settings that may differ between runs into one folder: which files, where, what is written, and how fast.
FREE_SETTINGS = (
    "input",
    "output",
    "outputs",
    "checkpoint",
    "device",
    "batch_size",
    "dots",
    "overwrite",
    "read_workers",
    "decode_workers",
)


class Manifest:
    """The run's record, kept up to date slide by slide; several runs of the same settings may share a folder.

    Args:
        output_dir: of the results; made where it is not there.
        settings: of the run.

    Raises:
        ValueError: results of other settings are there and are not to be overwritten, or a run of other
            settings is writing there.
        OSError: the folder cannot be written.
    """

    def __init__(self, output_dir: Path, settings: InferSettings) -> None:
        output_dir.mkdir(parents=True, exist_ok=True)
        self.path = output_dir / "run.json"
        self.digest = hashlib.sha256(Path(settings.checkpoint).read_bytes()).hexdigest()
        self._settings = {**dataclasses.asdict(settings), "checkpoint_sha256": self.digest}
        self._presence = (output_dir / ".run.lock").open("a+b")
        with self._content() as content:
            differing = self._differing(content)
            if differing and not settings.overwrite:
                raise ValueError(
                    f"{output_dir} holds results of other settings ({differing}): give another output=, or "
                    "overwrite=true"
                )
            if differing and not self._is_alone():
                raise ValueError(
                    f"a run of other settings ({differing}) is writing to {output_dir}: let it end, or give "
                    "another output="
                )
            slides = {} if differing else content.get("slides", {})
            content.clear()
            content |= {**describe_environment(), "settings": self._settings, "slides": slides}
        fcntl.flock(self._presence, fcntl.LOCK_SH)

    @property
    def facts(self) -> dict[str, object]:
        """What the results depend on: the settings that are not free, and the checkpoint's digest."""
        return {name: value for name, value in self._settings.items() if name not in FREE_SETTINGS}

    def record(self, status: SlideStatus, path: Path) -> None:
        """Write down how a slide ended; one that was skipped as done keeps what is written of it."""
        entry = {**dataclasses.asdict(status), "input": str(path.resolve())}
        del entry["name"]
        with self._content() as content:
            before = content["slides"].get(status.name)
            if status.status == SKIPPED and before and before["status"] == DONE:
                return
            content["slides"][status.name] = {
                **entry,
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            }

    def close(self) -> None:
        """Leave the folder."""
        self._presence.close()

    def _differing(self, content: dict[str, Any]) -> str:
        """Say in which settings that matter the folder's results differ; empty where in none."""
        if not content:
            return ""
        before = content["settings"]
        names = [
            name
            for name, value in self._settings.items()
            if name not in FREE_SETTINGS and before.get(name) != value
        ]
        return "; ".join(f"{name} was {before.get(name)}, is {self._settings[name]}" for name in names)

    def _is_alone(self) -> bool:
        try:
            fcntl.flock(self._presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def _content(self) -> Iterator[dict[str, Any]]:
        """Give the file's content to change, while no other run does."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            content = json.loads(self.path.read_text()) if self.path.is_file() else {}
            yield content
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n")
        finally:
            os.close(folder)
