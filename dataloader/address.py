"""Files at addresses (`s3://`, `gs://`, `az://`, `https://` … whatever fsspec knows), beside the paths of local ones.

fsspec and its libraries are imported with the first address; credentials are theirs to find, in the user's own
environment. What an address shows of itself, and what its errors say, holds none.
"""

from __future__ import annotations

import bisect
import errno
import functools
import io
import logging
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from dataloader.redaction import MARK, WEB, find_user, redact, show

logger = logging.getLogger(__name__)

WAITS = (0.5, 2.0, 5.0)  # s before another attempt where the network or the server failed
GAP = 2**14  # bytes between two ranges that are fetched as one: a request costs more than they do
BLOCK = 2**18  # bytes of a file's head that are fetched at once, while its index is read
NUM_BLOCKS = 64  # of them that are kept meanwhile: 16 MiB
VERSIONS = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "last_modified", "mtime", "created")
TIMES = ("mtime", "LastModified", "created")
# Kinds with folders, which have to be made, and with files that are half there while they are written.
LOCAL = {"file", "local"}
WITH_FOLDERS = {*LOCAL, "sftp", "ssh", "smb", "hdfs", "webhdfs", "arrow_hdfs"}
NO_RETRY = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    ImportError,
    ValueError,
    TypeError,
    NotImplementedError,
)
FULL = (errno.ENOSPC, errno.EDQUOT)


class AddressError(OSError):
    """What an address answered; the message holds the address without secrets, the reason and the remedy."""


def locate(place: str | Path | Address) -> Path | Address:
    """Return the address that a text is, else the local path."""
    if isinstance(place, Address):
        return place
    return Address(place) if isinstance(place, str) and MARK in place else Path(place)


class Address:
    """A file or folder that fsspec reaches; `str()` gives it without secrets. Threads may share one.

    Every method raises `FileNotFoundError` where nothing is there, and `AddressError` for what else went wrong, once
    waiting and trying again has not helped.

    Args:
        url: as the user gave it.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def __str__(self) -> str:
        return show(self._url)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __reduce__(self) -> tuple[type[Address], tuple[str]]:
        return Address, (self._url,)

    def __truediv__(self, name: str) -> Address:
        return Address(f"{self._url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """Last part of the address."""
        path = self._url.partition(MARK)[2].partition("?")[0].rstrip("/")
        return PurePosixPath(unquote(path) if self.is_web else path).name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name's ending, with its dot."""
        return "" if self._url.endswith("/") else PurePosixPath(self.name).suffix

    @property
    def is_web(self) -> bool:
        """Whether it is of a web server, which is read only."""
        return self._url.partition(MARK)[0] in WEB

    @property
    def user(self) -> str:
        """Who it is reached as, where it says so; not shown."""
        return find_user(self._url)

    @property
    def parent(self) -> Address:
        """The folder that it lies in."""
        return Address(self._url.partition("?")[0].rstrip("/").rpartition("/")[0])

    def resolve(self) -> Address:
        """Return itself: as paths have it."""
        return self

    def exists(self) -> bool:
        """Return whether a file or folder is there."""
        try:
            self.facts()
        except FileNotFoundError:
            return False
        return True

    def facts(self) -> dict[str, Any]:
        """Return what the server says of it: `size` in bytes, `type` (file or directory) and more, by its kind."""
        self._system.invalidate_cache()
        facts: dict[str, Any] = self._call("info", self._path)
        return facts

    def identify(self) -> dict[str, int | str]:
        """Return what tells a file from an older or another one of its name: its size, and its tag or time."""
        facts = self.facts()
        version = next((facts[key] for key in VERSIONS if facts.get(key)), "")
        return {"bytes": int(facts["size"] or 0), "version": str(version).strip('"')}

    def can_be_read_in_parts(self) -> bool:
        """Return whether ranges of it can be fetched; some web servers send whole files only."""
        if not self.is_web:
            return True
        if not self.facts().get("size"):
            return False
        try:
            with self._system.open(self._path, block_size=1, cache_type="none") as file:
                file.seek(1)
                return len(file.read(1)) == 1
        except Exception as error:  # what else there is, shows when it is read
            return not isinstance(error, ValueError)  # fsspec's word for more than was asked for

    def files(self) -> list[Address]:
        """Return the files right below it, by name."""
        self._system.invalidate_cache()
        entries = self._call("ls", self._path, detail=True)
        paths = [entry["name"] for entry in entries if entry["type"] == "file"]
        names = [path.rpartition("/")[2] for path in paths if path.strip("/") != self._path.strip("/")]
        return [self / name for name in sorted(names)]

    def files_or_none(self) -> list[Address]:
        """Return the files right below it; none where it is not there, as folders of object stores are not without."""
        try:
            return self.files()
        except FileNotFoundError:
            return []

    def read_files(self) -> dict[str, bytes]:
        """Return the bytes of the files right below it by name, fetched at the same time."""
        files = self.files_or_none()
        paths = [file._path for file in files]
        found = self._call("cat", paths) if paths else {}
        return {file.name: found[file._path] for file in files}

    def read(self) -> bytes:
        """Return all bytes."""
        data: bytes = self._call("cat_file", self._path)
        return data

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, number of bytes), fewer where the file ends; neighbours come as one.

        All are asked for at the same time where fsspec can.
        """
        spans = _merge(ranges)
        starts, ends = [start for start, _ in spans], [end for _, end in spans]
        blocks = self._call("cat_ranges", [self._path] * len(spans), starts, ends, on_error="raise")
        if any(len(block) > end - start for block, (start, end) in zip(blocks, spans, strict=True)):
            raise AddressError(f"{self} gives more bytes than are asked for; copy it to a local folder")
        pieces = []
        for offset, num_bytes in ranges:
            index = bisect.bisect_right(starts, offset) - 1
            first = offset - starts[index] if num_bytes else 0
            pieces.append(blocks[index][first : first + num_bytes] if num_bytes else b"")
        return pieces

    def open(self, mode: str = "rb", num_bytes: int | None = None) -> io.BufferedReader:
        """Open it for reading here and there: blocks are fetched, and the last ones kept.

        Args:
            mode: `rb`, as of paths.
            num_bytes: of the file, where they are known.
        """
        if mode != "rb":
            raise ValueError(f"mode={mode!r} of {self} must be 'rb'; `write` puts files there")
        size = int(self.identify()["bytes"]) if num_bytes is None else num_bytes
        return io.BufferedReader(_Blocks(self, size))

    def download(self, path: Path) -> None:
        """Copy it to a local file."""
        self._call("get_file", self._path, str(path))

    def write(self, source: Path | bytes) -> None:
        """Copy a local file, or bytes, there; it appears whole or not at all, where the kind of place can do that."""
        # of an object store, a put is whole
        target = f"{self._path}.tmp" if self._has_folders else self._path
        self._make_folder()
        if isinstance(source, Path):
            self._call("put_file", str(source), target, verb="written")
        else:
            self._call("pipe_file", target, source, verb="written")
        if target != self._path:
            self._call("mv", target, self._path, verb="written")

    def create(self, data: bytes) -> None:
        """Write a small file; raise `FileExistsError` where there is one, on kinds of places that can tell."""
        self._make_folder()
        if self._is_of(LOCAL):  # fsspec would look first, and write then
            with self._call("open", self._path, "xb", verb="written") as file:
                file.write(data)
        else:
            self._call("pipe_file", self._path, data, mode="create", verb="written")

    def changed(self) -> float:
        """Return when a file was last written, in seconds since 1970; 0 where the kind of place does not say."""
        facts = self.facts()
        when = next((facts[key] for key in TIMES if facts.get(key)), 0.0)
        return when.timestamp() if isinstance(when, datetime) else float(when)

    def remove(self) -> None:
        """Remove a file."""
        self._call("rm_file", self._path, verb="removed")

    @functools.cached_property
    def _place(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            system, path = url_to_fs(self._url)
        except ImportError as error:
            raise AddressError(
                f"{self} cannot be reached: {error}; for s3:// and https:// run uv pip install -r pyproject.toml "
                "--extra remote -c constraints.txt, for gs:// pip install gcsfs, az:// adlfs, sftp:// paramiko"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{self} is no address that fsspec knows ({error}); give a path, or s3://, gs://, az://, https:// …"
            ) from error
        except Exception as error:  # some kinds connect at once
            raise self._explain(error, "reached") from error
        return system, path

    @property
    def _system(self) -> Any:
        return self._place[0]

    @property
    def _path(self) -> str:
        return self._place[1]

    @property
    def _has_folders(self) -> bool:
        return self._is_of(WITH_FOLDERS)

    def _is_of(self, kinds: set[str]) -> bool:
        own = self._system.protocol
        return not kinds.isdisjoint([own] if isinstance(own, str) else own)

    def _make_folder(self) -> None:
        if self._has_folders:  # elsewhere none is needed, and s3fs would make a bucket
            self._call("makedirs", self._path.rpartition("/")[0], exist_ok=True, verb="written")

    def _call(self, method: str, *arguments: Any, verb: str = "read", **keywords: Any) -> Any:
        """Call a method of the file system, again where what went wrong may pass."""
        for wait in (*WAITS, None):
            try:
                return getattr(self._system, method)(*arguments, **keywords)
            except Exception as error:
                reason = self._reason(error)
                if wait is None or not _may_pass(reason):
                    raise self._explain(reason, verb) from error
                logger.warning("%s: %s; tried again in %g s", self, self._words(reason), wait)
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _reason(self, error: Exception) -> Exception:
        """Return what is behind an error: of the web, fsspec says of every failure that the file is not there."""
        cause = error.__cause__
        is_other = isinstance(cause, Exception) and getattr(cause, "status", 0) not in (404, 410)
        if self.is_web and isinstance(error, FileNotFoundError) and is_other:
            return cause  # type: ignore[return-value]
        return error

    def _words(self, error: Exception) -> str:
        said = f"{type(error).__name__} {error}" if str(error) else type(error).__name__
        return redact(said.replace(self._url.partition(MARK)[2], str(self).partition(MARK)[2]))

    def _explain(self, error: Exception, verb: str) -> OSError:
        """Return an error of one line for what fsspec raised."""
        said = self._words(error)
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(f"{self} does not exist; check bucket, folder and name")
        if isinstance(error, FileExistsError):
            return FileExistsError(f"{self} is there already")
        if _is_refusal(error):
            remedy = (
                "give credentials that may do it in your environment, such as AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY (docs/addresses.md)"
            )
        elif isinstance(error, NotImplementedError):
            remedy = "give an address that can be written, such as s3://bucket/folder"
        elif getattr(error, "errno", 0) in FULL and verb == "read":
            remedy = f"make room in {tempfile.gettempdir()}, or set TMPDIR to a folder that has some"
        elif getattr(error, "errno", 0) in FULL:
            remedy = "make room there, and start the same command again: it goes on"
        else:
            remedy = "check address and network, and start the same command again: it goes on"
        return AddressError(f"{self} cannot be {verb}: {said}; {remedy}")


class _Blocks(io.RawIOBase):
    """An address as a file for a parser that hops about in it."""

    def __init__(self, address: Address, num_bytes: int) -> None:
        self.error: OSError | None = None  # the first: a parser may go on without what it did not get
        self._size = num_bytes
        self._place = 0
        self._block = functools.lru_cache(NUM_BLOCKS)(
            lambda index: address.read_ranges([(index * BLOCK, min(BLOCK, num_bytes - index * BLOCK))])[0]
        )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._place >= self._size:
            return 0
        index, first = divmod(self._place, BLOCK)
        try:
            if self.error is not None:
                raise self.error
            data = self._block(index)[first : first + len(buffer)]
        except OSError as error:
            self.error = error
            raise
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _merge(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (start, end) of the spans that hold all (offset, number of bytes), those close to one another as one."""
    spans: list[tuple[int, int]] = []
    for offset, num_bytes in sorted(ranges):
        if num_bytes and spans and offset <= spans[-1][1] + GAP:
            spans[-1] = spans[-1][0], max(spans[-1][1], offset + num_bytes)
        elif num_bytes:
            spans.append((offset, offset + num_bytes))
    return spans


def _is_refusal(error: Exception) -> bool:
    is_named = isinstance(error, PermissionError) or "Credential" in type(error).__name__
    return is_named or getattr(error, "status", 0) in (401, 403)


def _may_pass(error: Exception) -> bool:
    """Return whether an error may be gone with the next attempt: one of the network, or of a busy server."""
    if isinstance(error, NO_RETRY) or _is_refusal(error) or getattr(error, "errno", 0) in FULL:
        return False
    status = getattr(error, "status", None)
    return not isinstance(status, int) or status >= 500 or status in (408, 429)
