"""What the record of an inference run tells of the files that its settings name."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest

from config.schema import InferSettings
from run_utils.inference.manifest import Manifest, identify
from run_utils.inference.status import DONE, FAILED, SlideStatus

MEBIBYTE = 2**20


def recorded(folder: Path, **changes: str) -> dict:
    values = {"input": "a.png", "output": str(folder), "checkpoint": "absent.pt", **changes}
    Manifest(folder, InferSettings(**values)).close(is_complete=True)
    return json.loads((folder / "run.json").read_text())["settings"]


def test_a_large_checkpoint_is_known_by_its_digest_without_lying_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.truncate(64 * MEBIBYTE)  # zeros that take no room on disk
    tracemalloc.start()
    settings = recorded(tmp_path / "out", checkpoint=str(path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert settings["checkpoint_sha256"] == hashlib.sha256(bytes(64 * MEBIBYTE)).hexdigest()
    assert most < 8 * MEBIBYTE


def test_a_list_of_boxes_too_long_for_a_name_is_no_file(tmp_path: Path) -> None:
    boxes = ";".join(["0,0,100,100"] * 40)
    assert recorded(tmp_path / "out", regions=boxes)["regions"] == boxes


def begin(folder: Path) -> Manifest:
    return Manifest(folder, InferSettings(input="a.png", output=str(folder), checkpoint="absent.pt"))


def test_a_slide_that_was_done_stays_so_when_it_cannot_be_reached(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(b"abc")
    identity = identify(path)
    begin(tmp_path / "out").record(SlideStatus("a", DONE), path, identity)
    for reached in ({}, identity):
        manifest = begin(tmp_path / "out")
        manifest.record(SlideStatus("a", FAILED, "the network"), path, reached)
        manifest.close(is_complete=True)
        assert begin(tmp_path / "out").is_done("a", identity)
    path.write_bytes(b"abcd")
    manifest.record(SlideStatus("a", FAILED, "the network"), path, identify(path))
    assert not begin(tmp_path / "out").is_done("a", identity)  # what it was is no longer there


def test_a_worker_that_comes_late_leaves_the_record_of_a_run_that_overwrote(tmp_path: Path) -> None:
    settings = InferSettings(input="a", output=str(tmp_path), checkpoint="absent.pt", overwrite=True)
    driver = Manifest(tmp_path, settings)
    Manifest(tmp_path, settings, joins=True).record(SlideStatus("a", DONE), tmp_path / "a.svs", {})
    driver.close(is_complete=True)
    before = json.loads((tmp_path / "run.json").read_text())
    Manifest(tmp_path, settings, joins=True)
    assert json.loads((tmp_path / "run.json").read_text()) == before
    settings.min_size = 20
    with pytest.raises(ValueError, match="min_size was 0, is 20"):
        Manifest(tmp_path, settings, joins=True)


def test_reasons_and_settings_are_kept_whole_but_for_secrets(tmp_path: Path) -> None:
    secret = "sftp://bob:it's@host/x"
    settings = InferSettings(input=secret, output=str(tmp_path / "out"), checkpoint="absent.pt")
    manifest = Manifest(tmp_path / "out", settings)
    manifest.record(SlideStatus("a", FAILED, 'GET "https://h/x?a=b" failed'), Path("a.svs"), {})
    manifest.close(is_complete=True)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["slides"]["a"]["reason"] == 'GET "https://h/x" failed'
    assert record["settings"]["input"] == "sftp://host/x"
