"""Where the record of a run is kept: `run.json` of a folder, or of an address with a file for each slide beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from dataloader.address import Address
from run_utils.files import locking, replacing

FILE_NAME = "run.json"
SLIDES = "run.slides"  # folder at an address: NAME.json of each slide

Content = dict[str, Any]


class Record(Protocol):
    """What is written down of a run."""

    @property
    def path(self) -> Path | Address:
        """Where `run.json` is."""

    def editing(self) -> AbstractContextManager[Content]:
        """Give the content of `run.json` to change; empty where there is none yet."""

    def slide(self, name: str) -> Content:
        """Return what is written of a slide; empty where nothing is."""

    def put_slide(self, name: str, entry: Content) -> None:
        """Write down a slide."""

    def forget_slides(self, content: Content) -> None:
        """Take all slides out of the record, and of its content that is being changed."""

    def merge(self) -> None:
        """See to it that `run.json` holds all slides."""


def open_record(place: Path | Address, working_dir: Path) -> Record:
    """Return the record of a place; `working_dir` is where processes of this machine wait for one another."""
    return AddressRecord(place, working_dir) if isinstance(place, Address) else FolderRecord(place)


class FolderRecord:
    """A local `run.json`, which processes change one after another."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME

    @contextmanager
    def editing(self) -> Iterator[Content]:
        """Give the file's content to change, while no other run does."""
        with locking(self.path.parent):
            content = self._read()
            yield content
            with replacing(self.path) as temporary:
                temporary.write_text(_as_text(content))

    def slide(self, name: str) -> Content:
        """Return what is written of a slide."""
        entry: Content = self._read().get("slides", {}).get(name, {})
        return entry

    def put_slide(self, name: str, entry: Content) -> None:
        """Write down a slide."""
        with self.editing() as content:
            content["slides"][name] = entry

    def forget_slides(self, content: Content) -> None:
        """Take all slides out of the content."""
        content["slides"] = {}

    def merge(self) -> None:
        """Do nothing: all is in one file."""

    def _read(self) -> Content:
        return _parse(self.path.read_bytes(), self.path) if self.path.is_file() else {}


class AddressRecord:
    """A record at an address, where no file can be changed: each slide has its own, `run.json` gets them at the end.

    So machines that write at the same time never overwrite what another has written of a slide.
    """

    def __init__(self, address: Address, working_dir: Path) -> None:
        self.path = address / FILE_NAME
        self._slides = address / SLIDES
        self._working_dir = working_dir

    @contextmanager
    def editing(self) -> Iterator[Content]:
        """Give the file's content to change, while no other run of this machine does."""
        with locking(self._working_dir):
            try:
                content = _parse(self.path.read(), self.path)
            except FileNotFoundError:
                content = {}
            yield content
            self.path.write(_as_text(content).encode())

    def slide(self, name: str) -> Content:
        """Return what is written of a slide."""
        try:
            entry: Content = json.loads((self._slides / f"{name}.json").read())
        except FileNotFoundError:
            return {}
        return entry

    def put_slide(self, name: str, entry: Content) -> None:
        """Write down a slide."""
        (self._slides / f"{name}.json").write(_as_text(entry).encode())

    def forget_slides(self, content: Content) -> None:
        """Remove the files of all slides."""
        content["slides"] = {}
        for file in self._slides.files_or_none():
            file.remove()

    def merge(self) -> None:
        """Write what the slides' files say into `run.json`."""
        entries = self._slides.read_files()
        with self.editing() as content:
            content["slides"] = {Path(name).stem: json.loads(data) for name, data in sorted(entries.items())}


def _as_text(content: Content) -> str:
    return json.dumps(content, indent=2) + "\n"


def _parse(data: bytes, path: Path | Address) -> Content:
    try:
        content = json.loads(data)
        if isinstance(content["settings"], dict) and isinstance(content["slides"], dict):
            return {"is_overwriting": False, **content}
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{path} is not the record of an inference run: give another output=, or remove the file"
    )
