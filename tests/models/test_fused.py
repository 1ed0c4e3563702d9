"""What inference runs gives the maps of the network that was trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.hovernet.fused import fuse
from models.hovernet.lite import ENCODERS, HoVerNetLite
from models.hovernet.network import HoVerNet

TOLERANCE = 1e-4


def _lived_in(network: nn.Module) -> nn.Module:
    """Give batch norms statistics, and factors, as training leaves them: some negative, some near zero."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.running_mean.copy_(0.2 * torch.randn(size, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(size, generator=generator))
            module.weight.data.copy_(0.7 + 0.3 * torch.randn(size, generator=generator))
            module.bias.data.copy_(0.2 * torch.randn(size, generator=generator))
    return network.eval()


def _images(network: nn.Module) -> torch.Tensor:
    size = network.geometry.smallest
    images = torch.randint(
        0, 256, (1, size, size + 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    return images.permute(0, 3, 1, 2)


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_a_fused_lite_network_gives_the_same_maps(encoder: str) -> None:
    _check_same(HoVerNetLite(encoder, None if encoder == "resnet50" else 4, num_stages=3), {})


@pytest.mark.parametrize(("mode", "merge_decoders"), [("original", True), ("fast", False)])
def test_a_fused_hovernet_gives_the_same_maps(mode: str, merge_decoders: bool) -> None:
    _check_same(HoVerNet(mode, 5), {"merge_decoders": merge_decoders})


def _check_same(network: nn.Module, options: dict) -> None:
    network = _lived_in(network).to(memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fused = fuse(network, **options)
    images = _images(network)
    with torch.inference_mode():
        expected, maps = network(images), fused(images)
    for part, wanted in zip(maps, expected, strict=True):
        if wanted is not None:
            scale = max(float(wanted.abs().max()), 1.0)
            assert float((part - wanted).abs().max()) <= TOLERANCE * scale
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert fused.geometry == network.geometry
    assert fused.num_types == network.num_types


def test_no_batch_norm_is_left_behind_a_convolution() -> None:
    """A pre-activated one stands before its ReLU, behind a sum, and stays."""
    lite = fuse(HoVerNetLite("resnet18", 3, num_stages=3))
    assert not [module for module in lite.modules() if isinstance(module, nn.BatchNorm2d)]
    names = [name for name, module in fuse(HoVerNet()).named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert all("preact" in name or "blk_bna" in name or name.endswith("u0.bn") for name in names)
