"""The published network: its parameters, keys, layer shapes, and what it does to its input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.hovernet.layers import DenseBlock, SamePadding
from models.hovernet.network import HoVerNet

PUBLISHED = [
    ("original", 5, 54_744_457, 798),
    ("original", None, 45_028_676, 632),
    ("fast", 5, 37_639_561, 798),
    ("fast", None, 33_625_412, 632),
]


@pytest.mark.parametrize(("mode", "num_types", "num_parameters", "num_keys"), PUBLISHED)
def test_parameters_and_keys_number_as_published(
    mode: str, num_types: int | None, num_parameters: int, num_keys: int
) -> None:
    network = HoVerNet(mode, num_types)
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters
    assert len(network.state_dict()) == num_keys


@pytest.mark.parametrize(
    "key",
    [
        "conv0./.weight",
        "d0.units.0.conv1/bn.weight",
        "d1.units.1.preact/bn.running_mean",
        "d3.shortcut.weight",
        "d2.blk_bna.bn.bias",
        "conv_bot.weight",
        "decoder.tp.u3.dense.units.0.preact_bna/bn.weight",
        "decoder.np.u2.dense.blk_bna.bn.weight",
        "decoder.hv.u1.conva.weight",
        "decoder.hv.u0.conv.bias",
        "upsample2x.unpool_mat",
    ],
)
def test_keys_are_those_of_the_official_checkpoints(key: str) -> None:
    assert key in HoVerNet("fast", 5).state_dict()


def test_branches_come_in_the_official_order() -> None:
    assert list(HoVerNet("fast", 5).decoder) == ["tp", "np", "hv"]


CHAINS = {
    "original": (270, {"conv0": 264, "d0": 264, "d1": 132, "d2": 66, "d3": 33, "u3": 30, "u2": 40, "u1": 80}),
    "fast": (256, {"conv0": 256, "d0": 256, "d1": 128, "d2": 64, "d3": 32, "u3": 46, "u2": 82, "u1": 164}),
}


@pytest.mark.parametrize("mode", CHAINS)
def test_layer_shapes_are_those_of_the_reference(mode: str) -> None:
    size, chain = CHAINS[mode]
    network = HoVerNet(mode).eval()
    branch = network.decoder["np"]
    layers = {name: getattr(network, name, None) or getattr(branch, name) for name in chain}
    seen: dict[str, int] = {}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output.shape[-1]}))
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    assert seen == chain


def test_same_padding_puts_the_odd_pixel_below_and_right() -> None:
    padded = SamePadding(3, 2)(torch.ones(1, 1, 4, 4))
    assert padded.shape == (1, 1, 5, 5)
    assert padded[0, 0, 4].sum() == 0
    assert padded[0, 0, :4, :4].sum() == 16


def test_dense_block_keeps_its_input_first_and_loses_its_kernels() -> None:
    block = DenseBlock(8, 3, num_units=2).eval()
    block.blk_bna = nn.Identity()  # type: ignore[assignment]
    features = torch.randn(1, 8, 9, 9)
    output = block(features)
    assert output.shape == (1, 8 + 2 * 32, 5, 5)
    assert torch.equal(output[:, :8], features[:, :, 2:7, 2:7])


def test_bytes_and_floats_give_the_same_maps() -> None:
    network = HoVerNet("fast").eval()
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    with torch.inference_mode():
        from_bytes, from_floats = network(images), network(images.float())
    assert torch.equal(from_bytes.hv, from_floats.hv)


def test_an_unknown_mode_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="original, fast"):
        HoVerNet("slow")
