"""The web server of `benchmarks.footprint` gives what is asked for and counts it; records are timed as they grow."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from benchmarks import footprint
from benchmarks.served import ServedFolder


def ask(url: str, method: str = "GET", **headers: str):
    return urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=10)


def test_ranges_are_given_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(100)))
    with ServedFolder(tmp_path) as served:
        assert ask(f"{served.url}/a.bin").read() == bytes(range(100))
        part = ask(f"{served.url}/a.bin", Range="bytes=10-14")
        assert (part.status, part.read()) == (206, bytes(range(10, 15)))
        assert part.headers["Content-Range"] == "bytes 10-14/100"
        assert ask(f"{served.url}/a.bin", Range="bytes=98-").read() == bytes([98, 99])
        assert ask(f"{served.url}/a.bin", "HEAD").headers["Content-Length"] == "100"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(f"{served.url}/b.bin")
        assert (served.num_requests, served.num_bytes) == (4, 100 + 5 + 2)


def test_a_record_is_timed_with_as_many_slides_as_asked(tmp_path: Path) -> None:
    entry = {"status": "done", "made_with": {"window": 256}, "stain": {}, "bytes": 1, "modified_ns": 2}
    megabytes, looking, recording = footprint._time_record(tmp_path, entry, 50)
    assert 50 * len(json.dumps(entry)) / 1e6 < megabytes < 0.1
    assert min(looking, recording) > 0
    assert len(json.loads((tmp_path / "run.json").read_text())["slides"]) == 50
