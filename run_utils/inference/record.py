"""Where the record of a run is kept: `run.json` of a folder or an address, and beside it what is not yet in it.

A `run.json` of many slides takes long to write (27 µs for each): a slide that ends is a line of a file beside it, or at
an address a file of its own, and `run.json` gets them now and then and at the end.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from dataloader.address import Address
from run_utils.files import append, locking, replacing

FILE_NAME = "run.json"
LINES_NAME = ".run.slides.jsonl"
GATHER_S = 10.0  # after which a run.json of a folder is written anew, at least; and of a large one
GATHER_S_PER_BYTE = 2e-6  # fifty times what that takes
MARK_BYTES = 32  # of a file of lines, before its first one
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
    """A local `run.json`, and the lines of slides that ended since it was written; for any number of runs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._lines_path = folder / LINES_NAME
        self._lines = Lines(self._lines_path)
        self._looking = threading.Lock()
        self._gathered: Content = {}
        self._version: tuple[int, int, int] | None = None  # of the `run.json` that was gathered from

    @contextmanager
    def editing(self) -> Iterator[Content]:
        """Give the content to change, all slides in it, while no other run does."""
        with locking(self.path.parent):
            content = self._read()
            if content:
                content["slides"] |= Lines(self._lines_path).read()
            yield content
            with replacing(self.path) as temporary:
                temporary.write_text(_as_text(content))
            self._lines_path.unlink(missing_ok=True)

    def slide(self, name: str) -> Content:
        """Return what is written of a slide."""
        with self._looking:
            added = self._lines.read()  # first: they are removed once run.json has them
            entry: Content = added.get(name) or self._slides().get(name, {})
            return entry

    def put_slide(self, name: str, entry: Content) -> None:
        """Write down a slide; now and then, gather all."""
        with locking(self.path.parent):
            self._lines.add(name, entry)
        facts = self.path.stat()
        if time.time() - facts.st_mtime > max(GATHER_S, facts.st_size * GATHER_S_PER_BYTE):
            self.merge()

    def forget_slides(self, content: Content) -> None:
        """Take all slides out of the content, and away, before it says of other settings."""
        content["slides"] = {}
        self._lines_path.unlink(missing_ok=True)

    def merge(self) -> None:
        """Write the lines into `run.json`."""
        with self.editing():
            pass

    def _slides(self) -> Content:
        """Return the slides in `run.json`, read again where it has changed."""
        facts = self.path.stat()
        version = facts.st_ino, facts.st_mtime_ns, facts.st_size
        if version != self._version:
            self._gathered, self._version = self._read()["slides"], version
        return self._gathered

    def _read(self) -> Content:
        return _parse(self.path.read_bytes(), self.path) if self.path.is_file() else {}


class Lines:
    """A file to which processes add a line for each slide, read on from where the last look ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: Content = {}
        self._mark, self._end = b"", 0

    def add(self, name: str, entry: Content) -> None:
        """Add a line, one process at a time; what a killed process left unfinished stays by itself."""
        with self._path.open("ab", buffering=0) as file:
            mark = ""
            if file.tell() < MARK_BYTES:  # new, or of a process that was killed as it began
                file.truncate(0)
                mark = uuid.uuid4().hex  # tells it from one that was there before
            append(file, f"{mark}\n{json.dumps([name, entry])}\n".encode())

    def read(self) -> Content:
        """Return the slides of all lines, the last line of each; none where there is no file."""
        try:
            with self._path.open("rb") as file:
                mark = file.read(MARK_BYTES)
                if mark != self._mark:
                    self._entries, self._mark, self._end = {}, mark, len(mark)
                file.seek(self._end)
                data = file.read()
        except FileNotFoundError:
            self._entries, self._mark = {}, b""
            return {}
        whole = data[: data.rfind(b"\n") + 1]
        self._end += len(whole)
        for line in whole.splitlines():
            with suppress(ValueError):  # an empty line, or one that was never finished
                name, entry = json.loads(line)
                self._entries[name] = entry
        return self._entries


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
        with self.editing() as content:
            entries = self._slides.read_files()
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
