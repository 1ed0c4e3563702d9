"""A journal gives back what was added, whole records only, to one process at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from models.nuclei import Nuclei
from run_utils.inference.journal import Journal, JournalBusyError, JournalClosedError, remove_journal
from run_utils.inference.pipeline import OwnedNuclei
from tests.conftest import ROOT
from tests.results import ellipses, make_parts

HEAD = {"slide": "a.svs", "regions": [0, 1, 5]}


@pytest.fixture
def regions() -> list[OwnedNuclei]:
    parts = make_parts(ellipses(), has_types=True, region_size=32)
    return [OwnedNuclei(part.nuclei.renumber(), part.labels) for part in parts]


def fill(path: Path, regions: list[OwnedNuclei], head: dict = HEAD) -> None:
    journal = Journal(path, head)
    for region in regions:
        journal.append(region)
    journal.release()


def read(path: Path, head: dict = HEAD) -> list[OwnedNuclei]:
    journal = Journal(path, head)
    journal.finish()
    found = list(journal.records())
    journal.release()
    return found


def assert_same(found: list[OwnedNuclei], expected: list[OwnedNuclei]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.labels == other.labels
        for field in fields(Nuclei):
            np.testing.assert_array_equal(getattr(one.nuclei, field.name), getattr(other.nuclei, field.name))


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path, regions) -> None:
    fill(tmp_path / "journal", regions[:2])
    fill(tmp_path / "journal", regions[2:])
    assert_same(read(tmp_path / "journal"), regions)


def test_nuclei_without_types_keep_none(tmp_path) -> None:
    parts = make_parts(ellipses(), has_types=False, region_size=4096)
    fill(tmp_path / "journal", [OwnedNuclei(parts[0].nuclei, parts[0].labels)])
    assert read(tmp_path / "journal")[0].nuclei.types is None


def test_a_record_cut_anywhere_is_dropped_and_those_before_it_stay(tmp_path, regions) -> None:
    path = tmp_path / "journal"
    fill(path, regions[:2])
    two = path.stat().st_size
    fill(path, regions[2:3])
    content = path.read_bytes()
    for size in (two + 1, two + 11, two + 12, (two + len(content)) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert_same(read(path), regions[:2])
        assert path.stat().st_size == two
        fill(path, regions[2:3])
        assert path.read_bytes() == content


def test_a_damaged_record_is_dropped_with_all_after_it(tmp_path, regions) -> None:
    path = tmp_path / "journal"
    fill(path, regions[:1])
    one = path.stat().st_size
    fill(path, regions[1:])
    content = bytearray(path.read_bytes())
    content[one + 40] ^= 0xFF
    path.write_bytes(content)
    assert_same(read(path), regions[:1])


@pytest.mark.parametrize("other", [{**HEAD, "slide": "b.svs"}, {**HEAD, "regions": [0, 1]}, {}])
def test_a_journal_of_other_work_is_started_anew(tmp_path, regions, other) -> None:
    fill(tmp_path / "journal", regions)
    assert read(tmp_path / "journal", other) == []
    assert read(tmp_path / "journal") == []


def test_a_reader_waits_for_regions_to_come(tmp_path, regions) -> None:
    journal = Journal(tmp_path / "journal", HEAD)
    found: list[OwnedNuclei] = []
    reader = threading.Thread(target=lambda: found.extend(journal.records()))
    reader.start()
    for region in regions:
        journal.append(region)
    assert reader.is_alive()
    journal.finish()
    reader.join(10)
    assert not reader.is_alive()
    assert_same(found, regions)
    remove_journal(journal.path)  # this process holds it: it stays
    assert journal.path.exists()
    journal.release()
    remove_journal(journal.path, tmp_path / "unfinished")
    assert not tmp_path.exists()


def test_a_reader_is_stopped_where_the_work_is_given_up(tmp_path, regions) -> None:
    journal = Journal(tmp_path / "journal", HEAD)
    journal.append(regions[0])
    records = journal.records()
    next(records)
    journal.close()
    with pytest.raises(JournalClosedError):
        next(records)


def test_two_processes_do_not_share_a_journal(tmp_path) -> None:
    journal = Journal(tmp_path / "journal", HEAD)
    with pytest.raises(JournalBusyError):
        Journal(tmp_path / "journal", HEAD)
    code = "import sys, pathlib; from run_utils.inference.journal import Journal; "
    code += "Journal(pathlib.Path(sys.argv[1]), {})"
    other = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "journal"], cwd=ROOT, capture_output=True, text=True
    )
    assert "JournalBusyError" in other.stderr
    journal.release()
    Journal(tmp_path / "journal", HEAD).release()


def test_a_full_disk_leaves_whole_records(tmp_path, regions, monkeypatch) -> None:
    journal = Journal(tmp_path / "journal", HEAD)
    journal.append(regions[0])
    size = (tmp_path / "journal").stat().st_size
    real = journal._file

    class Full:
        room = 100

        def __getattr__(self, name):
            return getattr(real, name)

        def write(self, data):
            if not self.room:
                raise OSError(28, "No space left on device")
            count = real.write(data[: self.room])
            self.room = 0
            return count

    monkeypatch.setattr(journal, "_file", Full())
    with pytest.raises(OSError, match="No space left"):
        journal.append(regions[1])
    monkeypatch.undo()
    assert (tmp_path / "journal").stat().st_size == size
    journal.release()
    assert_same(read(tmp_path / "journal"), regions[:1])


@pytest.mark.parametrize("tail", [bytes(24), bytes(200), b"\xff" * 64])
def test_what_a_power_cut_leaves_is_no_record(tail: bytes, tmp_path, regions) -> None:
    fill(tmp_path / "journal", regions[:2])
    with (tmp_path / "journal").open("ab") as file:
        file.write(tail)
    assert_same(read(tmp_path / "journal"), regions[:2])
