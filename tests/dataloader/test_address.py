"""Addresses: read in parts, listed, written whole, and shown without secrets."""

from __future__ import annotations

import errno
import http.server
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile

from dataloader.address import GAP, Address, AddressError, locate
from dataloader.redaction import MARK, redact
from dataloader.slides import SlideError, open_slide
from tests.object_store import counting_fetches, serve_bucket
from tests.slide_files import smooth_image, write_leica, write_pyramid, write_with_pillow

BOX = (30, 40, 190, 260)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("s3://bucket/a.svs", "s3://bucket/a.svs"),
        ("https://me:pass@host:8080/a.svs", "https://host:8080/a.svs"),
        ("https://token@host/a.svs", "https://host/a.svs"),
        ("s3://key:se/cr@et@bucket/a.svs", "s3://bucket/a.svs"),
        ("https://host:80/a@b.svs?X-Sig=abc&e=1", "https://host:80/a@b.svs"),
        (
            "abfs://container@account.dfs.core.windows.net/a",
            "abfs://container@account.dfs.core.windows.net/a",
        ),
        ("cannot get 'https://h/a?sig=abc', twice", "cannot get 'https://h/a', twice"),
        ("/home/me/a?b@c.svs", "/home/me/a?b@c.svs"),
    ],
)
def test_what_is_shown_of_an_address_has_no_secret(told: str, shown: str) -> None:
    assert redact(told) == shown
    assert "'" in told or MARK not in told or str(Address(told)) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sftp://bob:it's@host/x", "sftp://host/x"),
        ('sftp://bob:p"w@host/x', "sftp://host/x"),
        ("sftp://bob:my pw@host/x", "sftp://host/x"),
        ("sftp://bob:80/ab@host/x", "sftp://host/x"),
        ("https://h/a b.svs?sig=ab'cd&x=SECRET", "https://h/a b.svs"),
        ("az://container@account/a?sv=1&sig=SECRET", "az://container@account/a"),
        ("https://host/a@b.svs", "https://host/a@b.svs"),
    ],
)
def test_an_address_and_what_is_said_of_it_show_no_secret_of_any_letters(url: str, shown: str) -> None:
    address = Address(url)
    assert str(address) == shown
    said = str(address._explain(OSError(f"GET {url} failed"), "read"))
    assert said.startswith(f"{shown} cannot be read: OSError GET {shown} failed")


def test_a_full_disk_is_told_from_a_network_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fill(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    address = Address("memory://disk/a.png")
    monkeypatch.setattr(address._system, "get_file", fill)
    monkeypatch.setattr(address._system, "pipe_file", fill)
    with pytest.raises(AddressError, match=r"No space left.*make room in /.*, or set TMPDIR"):
        address.download(tmp_path / "a.png")
    with pytest.raises(AddressError, match=r"cannot be written: .*No space left.*make room there"):
        address.write(b"-")


def test_of_two_that_create_a_file_at_once_one_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # as both see it
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.exists", lambda *_: False)
    Address(f"file://{tmp_path}/run.lock").create(b"one")
    with pytest.raises(FileExistsError, match="is there already"):
        Address(f"file://{tmp_path}/run.lock").create(b"two")
    assert (tmp_path / "run.lock").read_bytes() == b"one"


def test_a_text_is_an_address_only_with_its_kind() -> None:
    assert isinstance(locate("memory://folder/a.svs"), Address)
    assert locate("folder/a.svs") == Path("folder/a.svs")


def test_a_name_is_the_last_part_without_query() -> None:
    address = Address("https://host/some%20folder/a%20b.svs?sig=1/2.png")
    assert (address.name, address.stem, address.suffix) == ("a b.svs", "a b", ".svs")
    assert Address("s3://bucket/set.tif/").suffix == ""


@pytest.mark.parametrize("kind", ["memory://folder", "file://{folder}"])
def test_files_are_written_listed_and_read(kind: str, tmp_path: Path) -> None:
    folder = Address(kind.format(folder=tmp_path)) / "deep"
    assert not folder.exists() and folder.files_or_none() == []
    (tmp_path / "local").write_bytes(b"0123456789")
    (folder / "b.bin").write(tmp_path / "local")
    (folder / "a.bin").write(b"abc")
    assert [file.name for file in folder.files()] == ["a.bin", "b.bin"]
    assert folder.read_files() == {"a.bin": b"abc", "b.bin": b"0123456789"}
    first = (folder / "a.bin").identify()
    (folder / "a.bin").write(b"abcd")
    assert first["bytes"] == 3 and (folder / "a.bin").identify() != first
    with pytest.raises(FileExistsError, match=r"a\.bin is there already"):
        (folder / "a.bin").create(b"")
    (folder / "a.bin").remove()
    with pytest.raises(FileNotFoundError, match=r"a\.bin does not exist; check"):
        (folder / "a.bin").read()


def test_ranges_are_those_of_the_bytes_and_neighbours_come_in_one_request() -> None:
    data = np.random.default_rng(0).integers(0, 256, 10 * GAP, np.uint8).tobytes()
    ranges = [(9 * GAP, GAP), (0, 10), (10, 5), (20, 0), (GAP - 1, 7), (10 * GAP - 2, 9), (3 * GAP, 1)]
    with serve_bucket(), counting_fetches() as counts:
        address = Address("s3://bucket/data")
        address.write(data)
        assert address.read_ranges(ranges) == [data[start : start + size] for start, size in ranges]
        assert counts["requests"] == 3
        assert address.read_ranges([]) == []


def test_a_window_of_a_large_pyramid_costs_little_more_than_its_tiles(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4096, 4096, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "large.tif") as file:
        for step in (1, 2, 4):
            file.write(noise[::step, ::step], tile=(256, 256), photometric="rgb", subfiletype=int(step > 1))
    with serve_bucket(), counting_fetches() as counts:
        address = Address("s3://bucket/large.tif")
        address.write(tmp_path / "large.tif")
        with open_slide("s3://bucket/large.tif") as slide:
            at_opening = counts["bytes"]
            assert at_opening < 2**21
            assert (slide.read((256, 512, 768, 1024)) == noise[256:768, 512:1024]).all()
        assert counts["bytes"] - at_opening <= 2 * (2 * 256 * 256 * 3 + GAP)
        assert address.identify()["bytes"] > 30 * counts["bytes"]


@pytest.mark.parametrize("name", ["pyramid.tif", "scanner.scn", "plain.png"])
def test_every_kind_of_slide_is_read_at_an_address_as_on_disk(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write = {"pyramid.tif": write_pyramid, "scanner.scn": write_leica, "plain.png": write_with_pillow}[name]
    write(tmp_path / name, smooth_image())
    Address(f"memory://slides/{name}").write(tmp_path / name)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with open_slide(tmp_path / name, 0.25) as local, open_slide(f"memory://slides/{name}", 0.25) as slide:
        assert (slide.read(BOX, 0.5) == local.read(BOX, 0.5)).all()
        assert str(slide.path) == f"memory://slides/{name}"
        is_copied = bool(list((tmp_path / "temporary").iterdir()))
    assert is_copied == (name != "pyramid.tif") == ("is copied to" in caplog.text)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_damaged_slide_at_an_address_is_called_by_it(tmp_path: Path) -> None:
    Address("memory://slides/cut.png").write(b"no image")
    with pytest.raises(SlideError, match=r"^memory://slides/cut\.png cannot be read as an image"):
        open_slide("memory://slides/cut.png")
    with pytest.raises(SlideError, match=r"^memory://slides/a\.mrxs names other files beside it"):
        open_slide("memory://slides/a.mrxs")
    with pytest.raises(FileNotFoundError, match=r"memory://slides/none\.svs does not exist"):
        open_slide("memory://slides/none.svs")
    with pytest.raises(ValueError, match=r"nothing://a\.svs is no address that fsspec knows"):
        open_slide("nothing://a.svs")


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, in ranges where it may; the first `failures` requests for contents fail."""

    def __init__(self, *arguments, counts: Counter[str], has_ranges: bool, **keywords) -> None:
        self.counts, self.has_ranges = counts, has_ranges
        super().__init__(*arguments, **keywords)

    def do_GET(self) -> None:
        self.counts["requests"] += 1
        if self.counts["failures"] > 0:
            self.counts["failures"] -= 1
            self.send_error(503)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not (wanted and self.has_ranges):
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        piece = data[int(wanted[1]) : int(wanted[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(piece)))
        self.send_header("Content-Range", f"bytes {wanted[1]}-{wanted[2]}/{len(data)}")
        self.end_headers()
        self.wfile.write(piece)
        self.counts["bytes"] += len(piece)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def serve(folder: Path, *, has_ranges: bool = True) -> Iterator[tuple[str, Counter[str]]]:
    counts: Counter[str] = Counter()
    handler = partial(_Handler, directory=str(folder), counts=counts, has_ranges=has_ranges)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", counts
        server.shutdown()


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_web_server_is_read_by_ranges_or_else_whole(has_ranges: bool, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    write_pyramid(tmp_path / "a b.tif", smooth_image())
    with serve(tmp_path, has_ranges=has_ranges) as (root, counts):
        assert [file.name for file in Address(f"{root}/").files()] == ["a b.tif"]
        with open_slide(f"{root}/a%20b.tif?signature=abc") as slide:
            assert (slide.read((0, 0, 100, 100)) == smooth_image()[:100, :100]).all()
    assert ("its server gives no parts of files" in caplog.text) is not has_ranges
    assert "abc" not in caplog.text


def test_what_may_pass_is_tried_again_and_what_stays_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dataloader.address.WAITS", (0.01, 0.02))
    (tmp_path / "a.bin").write_bytes(b"abc")
    with serve(tmp_path) as (root, counts):
        counts["failures"] = 2
        assert Address(f"{root}/a.bin?key=hidden").read_ranges([(1, 2)]) == [b"bc"]
        assert counts["requests"] == 3 and caplog.text.count("tried again") == 2
        counts["failures"] = 9
        with pytest.raises(
            AddressError, match=r"cannot be read: .*503.*; check address and network"
        ) as error:
            Address(f"{root}/a.bin?key=hidden").read()
        assert "hidden" not in caplog.text + str(error.value)
        counts.update(failures=-counts["failures"], requests=-counts["requests"])
        with pytest.raises(FileNotFoundError, match=r"none\.bin does not exist"):
            Address(f"{root}/none.bin").read()
        assert counts["requests"] == 1
