"""The record of a run: many slides cost no more each than few, and nothing of it is lost or taken for another."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from dataloader.address import Address
from run_utils.inference.record import LINES_NAME, AddressRecord, FolderRecord, Lines


@pytest.fixture
def record(tmp_path: Path) -> FolderRecord:
    begin(FolderRecord(tmp_path))
    return FolderRecord(tmp_path)


def begin(record: FolderRecord | AddressRecord) -> None:
    with record.editing() as content:
        content |= {"settings": {}, "slides": {}}


def gathered(record: FolderRecord) -> dict:
    return json.loads(Path(str(record.path)).read_text())["slides"]


def test_a_slide_is_known_to_every_process_at_once_and_to_run_json_at_the_end(
    record: FolderRecord, tmp_path: Path
) -> None:
    other = FolderRecord(tmp_path)
    assert other.slide("a") == {}
    record.put_slide("a", {"status": "failed"})
    assert other.slide("a") == {"status": "failed"}
    other.put_slide("a", {"status": "done"})
    assert record.slide("a") == {"status": "done"}
    assert gathered(record) == {}
    record.merge()
    assert gathered(record) == {"a": {"status": "done"}}
    assert not (tmp_path / LINES_NAME).exists()
    assert other.slide("a") == {"status": "done"}
    record.put_slide("b", {"status": "done"})  # in a new file of lines, perhaps of the same inode
    assert other.slide("b") == {"status": "done"} and other.slide("a")


def test_run_json_gets_the_slides_now_and_then(record: FolderRecord) -> None:
    record.put_slide("a", {"status": "done"})
    os.utime(record.path, (0, 0))
    record.put_slide("b", {"status": "done"})
    assert set(gathered(record)) == {"a", "b"}


def test_a_line_that_was_never_finished_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / LINES_NAME
    lines = Lines(path)
    Lines(path).add("a", {"n": 1})
    whole = path.stat().st_size
    Lines(path).add("b", {"n": 2})
    assert set(lines.read()) == {"a", "b"}
    os.truncate(path, whole + 9)  # killed in the middle of it
    fresh = Lines(path)
    assert fresh.read() == {"a": {"n": 1}}
    Lines(path).add("c", {"n": 3})
    assert fresh.read() == {"a": {"n": 1}, "c": {"n": 3}}
    os.truncate(path, 9)
    Lines(path).add("d", {"n": 4})
    assert fresh.read() == {"d": {"n": 4}}


def test_slides_of_other_settings_are_forgotten(record: FolderRecord, tmp_path: Path) -> None:
    record.put_slide("a", {"status": "done"})
    with FolderRecord(tmp_path).editing() as content:
        assert content["slides"] == {"a": {"status": "done"}}
        record.forget_slides(content)
    assert record.slide("a") == {} and gathered(record) == {}


def test_a_slide_costs_bytes_of_its_own_only(record: FolderRecord, tmp_path: Path) -> None:
    for number in range(300):
        record.put_slide(f"slide_{number}", {"status": "done", "reason": "-" * 100})
        assert record.slide(f"slide_{number}")
    assert (tmp_path / LINES_NAME).stat().st_size < 300 * 200
    assert gathered(record) == {}


def test_two_runs_that_end_at_once_both_have_their_slides_in_run_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = Address("memory://two runs")
    one, two = AddressRecord(address, tmp_path), AddressRecord(address, tmp_path)
    begin(one)
    one.put_slide("a", {"status": "done"})
    real, has_read, second = Address.read_files, threading.Event(), threading.Thread(target=two.merge)

    def read_files(folder: Address) -> dict[str, bytes]:
        found = real(folder)
        if not has_read.is_set():  # the first one, which now takes its time
            has_read.set()
            two.put_slide("b", {"status": "done"})
            second.start()
            second.join(0.3)
        return found

    monkeypatch.setattr(Address, "read_files", read_files)
    one.merge()
    second.join()
    assert set(json.loads((address / "run.json").read())["slides"]) == {"a", "b"}
