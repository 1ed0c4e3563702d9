"""The script that writes networks for other programs: files that run by themselves, or one line that says why not."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch

import run_utils.export
from export_model import main
from models.hovernet.checkpoint import Network, load_checkpoint, save_checkpoint
from models.hovernet.lite import HoVerNetLite
from models.hovernet.probabilities import ProbabilityNetwork
from models.nuclei import NucleusType
from run_utils.entry import run_command
from run_utils.inference.engines.graph import trace
from run_utils.inference.engines.process import EngineProcess

TYPES = (
    NucleusType("background", (0, 0, 0)),
    NucleusType("ép<i>", (255, 0, 0)),
    NucleusType('"b"', (0, 9, 9)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    network = HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=16)
    save_checkpoint(network, folder / "a.pt", types=TYPES, mpp=0.25, licence="MIT")
    (folder / "taken.bin").write_text("something of the user's")
    (folder / "taken.ts").write_text("something of the user's")
    (folder / "broken.pt").write_text("no checkpoint")
    return folder


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Run the script in this process, and return its exit status."""
    monkeypatch.chdir(folder)
    given = (
        arguments if any(a.startswith("checkpoint=") for a in arguments) else ["checkpoint=a.pt", *arguments]
    )
    monkeypatch.setattr(sys, "argv", ["export_model.py", *given])
    with pytest.raises(SystemExit) as stop:
        run_command("export", main)
    return stop.value.code


def run_torchscript(path: Path, tiles: np.ndarray, _: list[tuple[int, ...]]) -> tuple[list[np.ndarray], str]:
    files = {"hovernet": ""}
    with pytest.warns(FutureWarning):
        loaded = torch.jit.load(path, _extra_files=files)
    return [maps.detach().numpy() for maps in loaded(torch.from_numpy(tiles))], files["hovernet"]


def run_onnx(path: Path, tiles: np.ndarray, shapes: list[tuple[int, ...]]) -> tuple[list[np.ndarray], str]:
    (facts,) = [entry.value for entry in onnx.load(path).metadata_props if entry.key == "hovernet"]
    return run_engine("onnxruntime", path, tiles, shapes), facts


def run_openvino(
    path: Path, tiles: np.ndarray, shapes: list[tuple[int, ...]]
) -> tuple[list[np.ndarray], str]:
    facts = ElementTree.parse(path).find("rt_info/hovernet")
    assert facts is not None
    return run_engine("openvino", path, tiles, shapes), facts.attrib["value"]


def run_engine(engine: str, path: Path, tiles: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    process = EngineProcess(engine, path, num_threads=1)
    try:
        return process.run(tiles, shapes)
    finally:
        process.close()


READERS: dict[str, Any] = {".ts": run_torchscript, ".onnx": run_onnx, ".xml": run_openvino}


def torch_maps(network: Network, tiles: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        return [maps.numpy() for maps in ProbabilityNetwork(network)(torch.from_numpy(tiles))]


@pytest.mark.parametrize("suffix", READERS)
def test_an_exported_file_runs_by_itself_and_knows_its_facts(suffix, folder, monkeypatch, capsys) -> None:
    assert run(folder, monkeypatch, f"output=b{suffix}") == 0
    (differs,) = re.findall(r"nuclei (\S+), hv (\S+), types (\S+); allowed", capsys.readouterr().out)
    assert all(float(difference) <= 1e-4 for difference in differs)
    tiles = np.random.default_rng(0).integers(0, 256, (3, 72, 64, 3), np.uint8)
    expected = torch_maps(load_checkpoint(folder / "a.pt"), tiles)
    found, text = READERS[suffix](folder / f"b{suffix}", tiles, [maps.shape for maps in expected])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    facts = json.loads(text)
    assert facts["types"] == [[name, list(colour)] for name, colour in TYPES]
    assert (facts["mpp"], facts["notes"]["licence"]) == (0.25, "MIT")
    assert facts["geometry"]["margin"] == 16 and facts["arguments"]["encoder"] == "resnet18"
    assert facts["digest"] == load_checkpoint(folder / "a.pt").facts.digest
    assert not list(folder.glob(".*"))


def slightly_other(network: Network) -> Network:
    """Return a network whose probabilities of nucleus are a little higher."""
    other = copy.deepcopy(network)
    other.heads.last.bias.data[1] += 2e-3
    return other


def test_maps_that_differ_too_much_fail_and_leave_what_was_there(folder, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        run_utils.export, "trace", lambda network, **options: trace(slightly_other(network), **options)
    )
    assert run(folder, monkeypatch, "output=taken.ts", "overwrite=true") == 1
    assert "nothing: what was there is as it was" in capsys.readouterr().out
    assert (folder / "taken.ts").read_text().startswith("something")
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=c.tflite"], r"use one of: \.onnx, \.xml, \.ts"),
        (["output=taken.ts"], "overwrite=true to replace it"),
        (["output=taken.xml"], r"taken\.bin exists"),
        (["output=c.ts", "checkpoint=broken.pt"], "broken.pt"),
        (["output=c.ts", "checkpoint=nowhere.pt"], "does not exist"),
    ],
)
def test_what_cannot_be_exported_ends_in_one_line(arguments, message, folder, capsys, monkeypatch) -> None:
    assert run(folder, monkeypatch, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(message, lines[0]), lines
    assert not list(folder.glob("c.*"))
