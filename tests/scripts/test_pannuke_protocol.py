"""PanNuke's protocol to its end: a fold's images leave its arrays, are predicted, and are scored against the fold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataloader.annotations.pannuke import CLASS_NAMES
from models.hovernet.checkpoint import save_checkpoint
from models.hovernet.lite import HoVerNetLite
from models.nuclei import NucleusType
from tests.conftest import ROOT
from tests.published.base import Published
from tests.published.pannuke import publish_pannuke


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish_pannuke(tmp_path / "pannuke")


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_fold_is_exported_predicted_and_scored(tmp_path: Path, published: Published) -> None:
    network = HoVerNetLite(num_types=len(CLASS_NAMES), num_stages=2, decoder_channels=[8], margin=0)
    types = [NucleusType(name, (0, 0, 0)) for name in CLASS_NAMES]
    save_checkpoint(network, tmp_path / "tiny.pt", types=types, mpp=0.25)
    result = run(
        tmp_path,
        "extract_patches.py",
        "data=pannuke",
        "data.root=pannuke",
        "data.splits=[fold3]",
        "output=patches",
        "patch_size=48",
        "patch_step=48",
        "export_images=true",
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "patches/fold3.zarr").is_dir()
    for image in published.images["fold3"]:
        exported = np.asarray(Image.open(tmp_path / f"patches/images/fold3/{image.name}.png"))
        np.testing.assert_array_equal(exported, image.image)
    result = run(
        tmp_path,
        "run_infer.py",
        "input=patches/images/fold3",
        "output=predicted",
        "checkpoint=tiny.pt",
        "device=cpu",
        "outputs=[json]",
    )
    assert result.returncode == 0, result.stderr
    result = run(
        tmp_path,
        "compute_stats.py",
        "true=pannuke",
        "adapter=pannuke",
        "split=fold3",
        "predicted=predicted",
        "images=patches/images/fold3",
        "mode=all",
        "resamples=0",
        "output=scores",
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "scores/stats.json").read_text())
    assert list(report["images"]) == ["fold3_0", "fold3_1"]
    assert not report["missing_true"] and not report["missing_predicted"]
    assert "mPQ" in {row["score"] for row in report["scores"]}
