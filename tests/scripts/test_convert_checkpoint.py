"""The script that converts checkpoints, as a user starts it: a summary, a digest, and one line for what cannot be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.hovernet.checkpoint import load_checkpoint, save_checkpoint
from models.hovernet.lite import HoVerNetLite
from models.hovernet.network import HoVerNet
from run_utils.conversion import read_types
from tests.conftest import ROOT
from tests.models.foreign_files import fill, tensorflow_arrays, write_npz

TYPE_INFO = {"0": ["nolabe", [0, 0, 0]], "1": ["neopla", [255, 0, 0]], "2": ["inflam", [0, 255, 0]]}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "convert_checkpoint.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_tensorflow_file_becomes_ours_with_types_summary_and_digest(tmp_path: Path) -> None:
    network = HoVerNet("fast", 3)
    fill(network)
    write_npz(tmp_path / "pannuke.npz", tensorflow_arrays(network))
    (tmp_path / "type_info.json").write_text(json.dumps(TYPE_INFO))
    result = run(tmp_path, "input=pannuke.npz", "output=ours.pt", "types=type_info.json", "mpp=0.5")
    assert result.returncode == 0, result.stderr
    assert "667 of 798 weights" in result.stdout
    loaded = load_checkpoint(tmp_path / "ours.pt")
    assert [kind.name for kind in loaded.facts.types] == ["nolabe", "neopla", "inflam"]
    assert loaded.facts.mpp == 0.5
    assert loaded.facts.notes["converted_from"]["file"] == "pannuke.npz"
    (digest,) = re.findall(r"^sha256 +([0-9a-f]{64})$", result.stdout, flags=re.MULTILINE)
    assert loaded.facts.digest == digest
    assert torch.equal(loaded.conv_bot.weight, network.conv_bot.weight)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("convert")
    save_checkpoint(HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=0), folder / "a.pt")
    (folder / "taken.pt").write_text("something of the user's")
    (folder / "broken.pt").write_text("no checkpoint")
    (folder / "two.json").write_text(json.dumps({"1": ["a", [1, 2, 3]]}))
    (folder / "wrong.json").write_text(json.dumps({"1": "a"}))
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=b.onnx"], r"use one of: \.pt, \.safetensors, \.tar"),
        (["output=taken.pt"], "overwrite=true to replace it"),
        (["output=a.pt", "overwrite=true"], "is the input"),
        (["output=b.tar"], "the official format holds HoVerNet alone"),
        (["output=b.pt", "types=two.json"], r"names types \[0, 1\], the network has types 0 to 2"),
        (["output=b.pt", "types=wrong.json"], "is not JSON of the kind"),
        (["output=b.pt", "types=none.json"], "none.json does not exist"),
        (["output=b.tar", "types=two.json"], "holds weights alone"),
        (["output=b.pt", "mpp=-1"], "must be 0 or more"),
        (["output=b.pt", "input=broken.pt"], "broken.pt"),
        (["output=b.pt", "input=nowhere.pt"], "does not exist"),
    ],
)
def test_what_cannot_be_converted_ends_in_one_line(
    arguments: list[str],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from convert_checkpoint import main
    from run_utils.entry import run_command

    given = arguments if any(a.startswith("input=") for a in arguments) else ["input=a.pt", *arguments]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *given])
    with pytest.raises(SystemExit) as stop:
        run_command("convert", main)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(message, lines[0]), lines
    assert not (folder / "b.pt").exists() and (folder / "taken.pt").read_text().startswith("something")


def test_types_without_background_get_it(tmp_path: Path) -> None:
    (tmp_path / "types.json").write_text(json.dumps({"2": ["b", [0, 0, 9]], "1": ["a", [255, 0, 0]]}))
    types = read_types(tmp_path / "types.json", 3)
    assert [kind.name for kind in types] == ["background", "a", "b"]
    assert types[2].colour == (0, 0, 9)
