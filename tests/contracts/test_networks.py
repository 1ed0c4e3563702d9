"""Every network gives HoverMaps of its input's size less the margin, and a checkpoint that says all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from models.hovernet.checkpoint import load_checkpoint, save_checkpoint
from models.hovernet.lite import ENCODERS, HoVerNetLite
from models.hovernet.network import HoVerNet
from models.nuclei import NucleusType

Build = Callable[[int | None], nn.Module]

NETWORKS: dict[str, Build] = {
    "HoVerNet original": lambda num_types: HoVerNet("original", num_types),
    "HoVerNet fast": lambda num_types: HoVerNet("fast", num_types),
    **{
        f"HoVerNetLite {name}": lambda num_types, name=name: HoVerNetLite(name, num_types, num_stages=3)
        for name in ENCODERS
    },
}
TYPES = (
    NucleusType("background", (0, 0, 0)),
    NucleusType("round", (255, 0, 0)),
    NucleusType("long", (0, 9, 9)),
)


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def build(request: pytest.FixtureRequest) -> Build:
    return request.param


def _images(network: nn.Module, *, extra: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    height = network.geometry.smallest
    shape = (2, 3, height, height + extra)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_maps_have_the_size_that_the_geometry_says(build: Build) -> None:
    network = build(3).eval()
    images = _images(network, extra=network.geometry.multiple)
    with torch.inference_mode():
        maps = network(images)
    height, width = (network.geometry.output_size(size) for size in images.shape[2:])
    assert maps.nuclei.shape == maps.hv.shape == (2, 2, height, width)
    assert maps.types.shape == (2, 3, height, width)
    assert all(torch.isfinite(part).all() for part in maps)


def test_without_types_there_is_no_type_map(build: Build) -> None:
    network = build(None).eval()
    with torch.inference_mode():
        assert network(_images(network)).types is None


def test_a_size_that_does_not_fit_is_refused(build: Build) -> None:
    network = build(None)
    size = network.geometry.smallest + 1
    with pytest.raises(ValueError, match="the nearest that fit are"):
        network(torch.zeros(1, 3, size, size))


def test_one_type_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match="num_types=1"):
        build(1)


def test_every_weight_gets_a_gradient(build: Build) -> None:
    network = build(2).train()
    maps = network(_images(network))
    sum(part.square().mean() for part in maps).backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not without


def test_a_checkpoint_gives_the_same_network_and_its_facts(build: Build, tmp_path: Path) -> None:
    network = build(3).eval()
    path = tmp_path / "network.pt"
    save_checkpoint(network, path, types=TYPES, mpp=0.5, licence="MIT")
    loaded = load_checkpoint(path)
    assert not loaded.training
    assert loaded.facts.types == TYPES
    assert loaded.facts.mpp == 0.5
    assert loaded.facts.notes == {"licence": "MIT"}
    with torch.inference_mode():
        before, after = network(_images(network)), loaded(_images(network))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_encoder_parts_hold_weights_of_the_network_but_not_of_its_heads(build: Build) -> None:
    network = build(2)
    encoder = {id(weight) for part in network.encoder_parts for weight in part.parameters()}
    everything = {id(weight) for weight in network.parameters()}
    assert encoder < everything


@pytest.mark.gpu
def test_maps_on_a_gpu_are_those_of_the_cpu(build: Build) -> None:
    network = build(3).eval()
    images = _images(network)
    with torch.inference_mode():
        on_cpu = network(images)
        on_gpu = network.cuda()(images.cuda())
    for a, b in zip(on_cpu, on_gpu, strict=True):
        torch.testing.assert_close(
            b.cpu(), a, atol=2e-3 * float(a.std()), rtol=2e-3
        )  # logits reach thousands
