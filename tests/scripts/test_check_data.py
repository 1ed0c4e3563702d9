"""The doctor's script as a user starts it, on data that tests write and, where it is there, on CoNSeP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.annotated import make_annotated, write_consep
from tests.conftest import ROOT

CONSEP = ROOT.parent / "shared" / "data" / "consep"
NUCLEI = {  # counted from the published files' types, as listed beside them
    "Train": {"miscellaneous": 371, "inflammatory": 3941, "epithelial": 5537, "spindle-shaped": 5706},
    "Test": {"miscellaneous": 561, "inflammatory": 1638, "epithelial": 3214, "spindle-shaped": 3364},
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "check_data.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_exit_status_tells_of_an_error_and_the_message_of_its_file(tmp_path: Path) -> None:
    write_consep(tmp_path / "data", "Train", [make_annotated("a"), make_annotated("b", seed=1)])
    result = run(tmp_path, "data=consep", "data.root=data", "data.types=merged")
    assert result.returncode == 0, result.stderr
    (tmp_path / "data/Train/Labels/b.mat").write_bytes(b"broken")
    result = run(tmp_path, "data=consep", "data.root=data", "data.types=merged")
    assert result.returncode == 1
    assert "data/Train/Labels/b.mat: not a whole .mat file" in result.stdout
    assert "Traceback" not in result.stderr
    assert (tmp_path / "outputs/check/consep/report.json").is_file()


def test_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    result = run(tmp_path, "data=consep", "data.root=nowhere")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(not CONSEP.is_dir(), reason="CoNSeP is not beside this checkout")
def test_consep_has_as_many_nuclei_of_each_type_as_published(tmp_path: Path) -> None:
    result = run(tmp_path, "data=consep", f"data.root={CONSEP}", f"output={tmp_path / 'check'}")
    assert result.returncode == 0, result.stdout
    splits = json.loads((tmp_path / "check/report.json").read_text())["splits"]
    for split, expected in NUCLEI.items():
        assert splits[split]["nuclei"] == {"no type": 0, **expected}
        assert splits[split]["num_nuclei"] == sum(expected.values())
