"""`run.json` of a run's output: what its results were made with, and how each slide ended; no secret is in it."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config.schema import InferSettings
from dataloader.address import Address, locate
from dataloader.redaction import redact
from run_utils.files import is_file
from run_utils.inference.output_folder import working_dir
from run_utils.inference.record import open_record
from run_utils.inference.status import DONE, SlideStatus
from run_utils.provenance import describe_environment

logger = logging.getLogger(__name__)

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

Identity = dict[str, int] | dict[str, int | str]


class Manifest:
    """The run's record, kept up to date slide by slide; several runs of the same settings may share a folder.

    Args:
        output: folder or address of the results; made where it is not there.
        settings: of the run.
        joins: whether a run has begun already, of which this is a part: it forgets nothing of the record.

    Raises:
        ValueError: results of other settings are there and are not to be overwritten, a run of other settings
            is writing there, or its `run.json` is not a record of inference.
        OSError: it cannot be written.
    """

    def __init__(self, output: Path | Address, settings: InferSettings, *, joins: bool = False) -> None:
        self._output = output
        shown = {"input": _as_shown(settings.input), "output": _as_shown(settings.output)}
        plain = json.loads(json.dumps({**dataclasses.asdict(settings), **shown, **_digests(settings)}))
        self._settings: dict[str, Any] = _without_secrets(plain)
        folder = working_dir(output)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._presence = (folder / ".run.lock").open("a+b")
        except OSError as error:
            raise OSError(
                f"output={folder} cannot be written: {error.strerror}; give another output="
            ) from error
        self._record = open_record(output, folder)
        self.path = self._record.path
        with self._record.editing() as content:
            differing = self._differing(content)
            self._check(differing, overwrite=settings.overwrite and not joins)
            if not (joins and content):
                self._begin(content, differing)
            fcntl.flock(self._presence, fcntl.LOCK_SH)

    def _begin(self, content: dict[str, Any], differing: str) -> None:
        overwrite = self._settings["overwrite"]
        goes_on = bool(content) and not differing and overwrite <= content["is_overwriting"]
        if not goes_on:
            self._record.forget_slides(content)
        content |= {**describe_environment(), "settings": self._settings, "is_overwriting": overwrite}

    @property
    def facts(self) -> dict[str, object]:
        """What the results depend on: the settings that are not free, and the digests of the files they name."""
        return {name: value for name, value in self._settings.items() if name not in FREE_SETTINGS}

    def is_done(self, name: str, identity: Identity) -> bool:
        """Return whether a slide, the very file, was done with these settings, by any run."""
        entry = self._record.slide(name)
        is_same = all(entry.get(key) == value for key, value in identity.items())
        return bool(entry) and entry["status"] == DONE and is_same

    def record(self, status: SlideStatus, path: Path | Address, identity: Identity) -> None:
        """Write down how a slide ended; one that was done stays so, unless it is seen to be another file."""
        entry = {**dataclasses.asdict(status), "input": str(path.resolve()), **identity}
        name = entry.pop("name")
        if status.status != DONE and self.is_done(name, identity):
            return
        ended = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._record.put_slide(name, _without_secrets({**entry, "ended": ended}))

    def close(self, *, is_complete: bool) -> None:
        """Leave the output; a run that came to its end is not gone on with by the next one that overwrites."""
        try:
            self._record.merge()
            if is_complete and self._settings["overwrite"]:
                with self._record.editing() as content:
                    content["is_overwriting"] = False
        except OSError as error:  # what the run has to say must not be lost; the next one writes it
            logger.error("%s could not be written: %s", self.path, error)
        finally:
            self._presence.close()

    def _check(self, differing: str, *, overwrite: bool) -> None:
        if differing and not overwrite:
            raise ValueError(
                f"{self._output} holds results of other settings ({differing}): give another output=, or overwrite=true"
            )
        if differing and not self._is_alone():
            raise ValueError(
                f"a run of other settings ({differing}) is writing to {self._output}: let it end, or give another "
                "output="
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


def identify(path: Path | Address) -> Identity:
    """Return what tells a file from an older or another one of its name."""
    if isinstance(path, Address):
        return path.identify()
    facts = path.stat()
    return {"bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}


def _as_shown(place: str) -> str:
    """Return a path as it is, and an address without secrets."""
    return str(locate(place)) if isinstance(locate(place), Address) else place


def _without_secrets(values: Any) -> Any:
    """Return plain data with the addresses in its texts redacted."""
    if isinstance(values, str):
        return redact(values)
    if isinstance(values, dict):
        return {name: _without_secrets(value) for name, value in values.items()}
    return [_without_secrets(value) for value in values] if isinstance(values, (list, tuple)) else values


def _digests(settings: InferSettings) -> dict[str, str]:
    """Return the SHA-256 of the files that settings name, so that another file of that name is told apart."""
    named = {name: getattr(settings, name) for name in ("checkpoint", "mask", "regions", "stain")}
    return {f"{name}_sha256": _digest(path) for name, path in named.items() if is_file(path)}


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
