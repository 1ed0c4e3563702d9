"""HoVerNetLite: encoders by name and number of stages, ImageNet weights only where they lie."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from models.hovernet.lite import HoVerNetLite
from tests.conftest import ROOT


def test_an_unknown_encoder_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="resnet18, resnet50, efficientnet_b0, convnext_tiny"):
        HoVerNetLite("vgg16")


def test_more_stages_than_the_encoder_has_are_refused() -> None:
    with pytest.raises(ValueError, match="use 2 to 5"):
        HoVerNetLite("resnet18", num_stages=6)


def test_fewer_stages_make_a_smaller_network_with_a_finer_grid() -> None:
    shallow, deep = HoVerNetLite(num_stages=3), HoVerNetLite(num_stages=5)
    assert shallow.geometry.multiple == 8
    assert deep.geometry.multiple == 32
    assert sum(w.numel() for w in shallow.parameters()) < sum(w.numel() for w in deep.parameters())


def test_an_odd_margin_is_refused() -> None:
    with pytest.raises(ValueError, match="margin=31"):
        HoVerNetLite(margin=31)


def test_imagenet_weights_are_used_where_they_lie_and_never_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    network = HoVerNetLite("resnet18", num_stages=3)
    assert not network.load_imagenet()
    weights = torchvision.models.get_model_weights("resnet18").DEFAULT
    path = tmp_path / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    path.parent.mkdir()
    published = torchvision.models.resnet18(weights=None)
    torch.save(published.state_dict(), path)
    assert network.load_imagenet()
    assert torch.equal(network.encoder[0].conv1.weight, published.conv1.weight)
    assert torch.equal(network.encoder[2][0].conv1.weight, published.layer2[0].conv1.weight)


def test_neither_network_nor_slides_import_the_compiler_and_it_works_when_it_is_asked_for():
    script = """
import sys
import run_utils.inference.batch_run
assert "torch._dynamo" not in sys.modules
assert "torch._dynamo.utils" not in sys.modules
from torchvision.ops import roi_align
sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
assert "torch._dynamo" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
