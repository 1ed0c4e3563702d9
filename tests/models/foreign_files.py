"""HoVer-Net's weights as other projects write them, spelled out loop by loop: the slow obvious table of keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.hovernet.network import HoVerNet

NORM = {"weight": "gamma", "bias": "beta", "running_mean": "mean/EMA", "running_var": "variance/EMA"}
UNITS = {"d0": 3, "d1": 4, "d2": 6, "d3": 3}
DENSE_UNITS = {"u3": 8, "u2": 4}


def fill(network: torch.nn.Module, seed: int = 0) -> None:
    """Give every weight and statistic a value of its own, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.ndim == 1:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1 + name.endswith("weight"))


def tensorflow_table(branches: tuple[str, ...]) -> Iterator[tuple[str, str, bool]]:
    """Give (our key, TensorFlow's name, whether it is a kernel) of every weight."""
    yield "conv0./.weight", "conv0/W:0", True
    yield from _norm("conv0.bn", "conv0/bn")
    for group, (block, num_units) in enumerate(UNITS.items()):
        for unit in range(num_units):
            ours, theirs = f"{block}.units.{unit}", f"group{group}/block{unit}"
            if unit:
                yield from _norm(f"{ours}.preact/bn", f"{theirs}/preact/bn")
            for number in (1, 2, 3):
                yield f"{ours}.conv{number}.weight", f"{theirs}/conv{number}/W:0", True
                if number < 3:
                    yield from _norm(f"{ours}.conv{number}/bn", f"{theirs}/conv{number}/bn")
        yield f"{block}.shortcut.weight", f"group{group}/block0/convshortcut/W:0", True
        yield from _norm(f"{block}.blk_bna.bn", f"group{group}/bnlast/bn")
    yield "conv_bot.weight", "conv_bot/W:0", True
    for branch in branches:
        yield from _branch(branch)


def _branch(branch: str) -> Iterator[tuple[str, str, bool]]:
    for stage, num_units in DENSE_UNITS.items():
        ours, theirs = f"decoder.{branch}.{stage}", f"{branch}/{stage}"
        yield f"{ours}.conva.weight", f"{theirs}/conva/W:0", True
        for unit in range(num_units):
            here, there = f"{ours}.dense.units.{unit}", f"{theirs}/dense/blk/{unit}"
            yield from _norm(f"{here}.preact_bna/bn", f"{there}/preact_bna/bn")
            yield f"{here}.conv1.weight", f"{there}/conv1/W:0", True
            yield from _norm(f"{here}.conv1/bn", f"{there}/conv1/bn")
            yield f"{here}.conv2.weight", f"{there}/conv2/W:0", True
        yield from _norm(f"{ours}.dense.blk_bna.bn", f"{theirs}/dense/blk_bna/bn")
        yield f"{ours}.convf.weight", f"{theirs}/convf/W:0", True
    yield f"decoder.{branch}.u1.conva.weight", f"{branch}/u1/conva/W:0", True
    yield from _norm(f"decoder.{branch}.u0.bn", f"preact_out_{branch}/bn")
    yield f"decoder.{branch}.u0.conv.weight", f"conv_out_{branch}/W:0", True
    yield f"decoder.{branch}.u0.conv.bias", f"conv_out_{branch}/b:0", False


def _norm(ours: str, theirs: str) -> Iterator[tuple[str, str, bool]]:
    for parameter, name in NORM.items():
        yield f"{ours}.{parameter}", f"{theirs}/{name}:0", False


def tensorflow_arrays(network: HoVerNet) -> dict[str, np.ndarray]:
    """Return a network's weights as TensorFlow names and lays them out: kernels are (H, W, in, out)."""
    state = network.state_dict()
    arrays = {}
    for key, name, is_kernel in tensorflow_table(tuple(network.decoder)):
        values = state[key].numpy()
        arrays[name] = np.moveaxis(values, (0, 1), (3, 2)) if is_kernel else values
    return arrays


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write arrays under names that are no Python identifiers."""
    np.savez(path, **arrays)
    return path


def forward(network: HoVerNet) -> list[Tensor]:
    """Return the maps of a fixed image of the smallest size."""
    size = network.geometry.smallest
    images = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return [maps for maps in network.eval()(images) if maps is not None]
