"""What the record of an inference run tells of the files that its settings name."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

from config.schema import InferSettings
from run_utils.inference.manifest import Manifest

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
