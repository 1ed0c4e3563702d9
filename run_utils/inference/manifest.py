"""`run.json` of an output folder: what its results were made with, and how each slide ended."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config.schema import InferSettings
from run_utils.files import is_file, locking, replacing
from run_utils.inference.status import DONE, SKIPPED, SlideStatus
from run_utils.provenance import describe_environment

# Settings that may differ between runs into one folder: which files, where, what is written, and how fast.
FREE_SETTINGS = (
    "input",
    "output",
    "outputs",
    "checkpoint",
    "device",
    "launch",
    "triton",
    "batch_size",
    "predictor",
    "maps",
    "decoder",
    "dots",
    "overwrite",
    "read_workers",
    "decode_workers",
    "profile",
)

Identity = dict[str, int]


class Manifest:
    """The run's record, kept up to date slide by slide; several runs of the same settings may share a folder.

    Args:
        output_dir: of the results; made where it is not there.
        settings: of the run.

    Raises:
        ValueError: results of other settings are there and are not to be overwritten, a run of other settings
            is writing there, or the folder's `run.json` is not a record of inference.
        OSError: the folder cannot be written.
    """

    def __init__(self, output_dir: Path, settings: InferSettings) -> None:
        self.path = output_dir / "run.json"
        self._settings = {**dataclasses.asdict(settings), **_digests(settings)}
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            self._presence = (output_dir / ".run.lock").open("a+b")
        except OSError as error:
            raise OSError(
                f"output={output_dir} cannot be written: {error.strerror}; give another output="
            ) from error
        with self._content() as content:
            differing = self._differing(content)
            self._check(differing, overwrite=settings.overwrite)
            goes_on = bool(content) and not differing and settings.overwrite <= content["is_overwriting"]
            content |= {
                **describe_environment(),
                "settings": self._settings,
                "is_overwriting": settings.overwrite,
                "slides": content["slides"] if goes_on else {},
            }
            fcntl.flock(self._presence, fcntl.LOCK_SH)

    @property
    def facts(self) -> dict[str, object]:
        """What the results depend on: the settings that are not free, and the digests of the files they name."""
        return {name: value for name, value in self._settings.items() if name not in FREE_SETTINGS}

    def is_done(self, name: str, identity: Identity) -> bool:
        """Return whether a slide, the very file, was done with these settings, by any run."""
        entry = self._read().get("slides", {}).get(name)
        return (
            bool(entry) and entry["status"] == DONE and all(entry[key] == identity[key] for key in identity)
        )

    def record(self, status: SlideStatus, path: Path, identity: Identity) -> None:
        """Write down how a slide ended; one that was skipped as done keeps what is written of it."""
        entry = {**dataclasses.asdict(status), "input": str(path.resolve()), **identity}
        name = entry.pop("name")
        if status.status == SKIPPED and self.is_done(name, identity):
            return
        with self._content() as content:
            content["slides"][name] = {**entry, "ended": datetime.now(UTC).isoformat(timespec="seconds")}

    def close(self, *, is_complete: bool) -> None:
        """Leave the folder; a run that came to its end is not gone on with by the next one that overwrites."""
        if is_complete and self._settings["overwrite"]:
            with self._content() as content:
                content["is_overwriting"] = False
        self._presence.close()

    def _check(self, differing: str, *, overwrite: bool) -> None:
        folder = self.path.parent
        if differing and not overwrite:
            raise ValueError(
                f"{folder} holds results of other settings ({differing}): give another output=, or overwrite=true"
            )
        if differing and not self._is_alone():
            raise ValueError(
                f"a run of other settings ({differing}) is writing to {folder}: let it end, or give another output="
            )

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
        with locking(self.path.parent):
            content = self._read()
            yield content
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n")

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {}
        try:
            content = json.loads(self.path.read_text())
            if isinstance(content["settings"], dict) and isinstance(content["slides"], dict):
                return {"is_overwriting": False, **content}
        except (ValueError, KeyError, TypeError):
            pass
        raise ValueError(
            f"{self.path} is not the record of an inference run: give another output=, or remove the file"
        )


def identify(path: Path) -> Identity:
    """Return what tells a file from an older or another one of its name."""
    facts = path.stat()
    return {"bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}


def _digests(settings: InferSettings) -> dict[str, str]:
    """Return the SHA-256 of the files that settings name, so that another file of that name is told apart."""
    named = {name: getattr(settings, name) for name in ("checkpoint", "mask", "regions", "stain")}
    return {f"{name}_sha256": _digest(path) for name, path in named.items() if is_file(path)}


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
