"""The keys of HoVer-Net's weights in other projects, each by rule from the key of ours.

Ours are those of the official PyTorch files, and of TIAToolbox's. The rules of TensorFlow's are those of the
authors' table of 667 rows; MONAI's follow from its network's modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.hovernet.network import HoVerNet

UNUSED_BUFFERS = {"upsample2x.unpool_mat": torch.ones(2, 2)}  # in the official files, and in no others
BRANCH = r"decoder\.(?P<branch>np|hv|tp)\."
Rules = Sequence[tuple[str, str]]

TENSORFLOW_MODULES: Rules = (
    (r"conv0\./", r"conv0"),
    (r"conv0\.bn", r"conv0/bn"),
    (r"d(\d)\.units\.(\d+)\.(.+)", r"group\1/block\2/\3"),
    (r"d(\d)\.shortcut", r"group\1/block0/convshortcut"),
    (r"d(\d)\.blk_bna\.bn", r"group\1/bnlast/bn"),
    (r"conv_bot", r"conv_bot"),
    (BRANCH + r"(u\d)\.dense\.units\.(\d+)\.(.+)", r"\g<branch>/\2/dense/blk/\3/\4"),
    (BRANCH + r"(u\d)\.dense\.blk_bna\.bn", r"\g<branch>/\2/dense/blk_bna/bn"),
    (BRANCH + r"u0\.bn", r"preact_out_\g<branch>/bn"),
    (BRANCH + r"u0\.conv", r"conv_out_\g<branch>"),
    (BRANCH + r"(u\d)\.(conv[af])", r"\g<branch>/\2/\3"),
)
TENSORFLOW_NORM = {
    "weight": "gamma", "bias": "beta", "running_mean": "mean/EMA", "running_var": "variance/EMA",
}  # fmt: skip
TENSORFLOW_CONVOLUTION = {"weight": "W", "bias": "b"}

MONAI_MODULES: Rules = (
    (r"conv0\./", r"conv0.conv"),
    (r"conv0\.bn", r"conv0.bn"),
    (r"d(\d)\.units\.(\d+)\.(.+)", r"res_blocks.d\1.layers.denselayer_\2.layers.\3"),
    (r"d(\d)\.shortcut", r"res_blocks.d\1.shortcut"),
    (r"d(\d)\.blk_bna\.bn", r"res_blocks.d\1.bna_block.bn"),
    (r"conv_bot", r"bottleneck.conv_bottleneck"),
)
MONAI_BRANCHES = {"np": "nucleus_prediction", "hv": "horizontal_vertical", "tp": "type_prediction"}
MONAI_BLOCKS = {
    "u3": "decoder_blocks.decoderblock1",
    "u2": "decoder_blocks.decoderblock2",
    "u1": "output_features.decoderblock3",
    "u0": "output_features.decoderblock4",
}
MONAI_INEXACT = (
    "MONAI's network is another one by the same weights: its strided convolutions pad two pixels before and none "
    "after, ours and the published one none before and one after; its upsampling is bilinear, ours repeats pixels; "
    "with random weights the maps of the two lie 0.4 of their standard deviation apart"
)


class Mapped(NamedTuple):
    """Weights under our keys: state, and the names in the file that have no place there."""

    state: dict[str, Tensor]
    left: list[str]


def from_tensorflow(arrays: Mapping[str, np.ndarray]) -> Mapped:
    """Bring the arrays of the authors' TensorFlow files to our keys, kernels (H, W, in, out) transposed.

    What TensorFlow does not hold, and no output depends on, is left to whoever loads the state.
    """
    named = {name.removesuffix(":0"): values for name, values in arrays.items()}
    state, left = _rename(named, tensorflow_name)
    return Mapped({key: _to_tensor(values) for key, values in state.items()}, left)


def from_monai(state: Mapping[str, Tensor]) -> Mapped:
    """Bring the weights of MONAI's HoVerNet to our keys; all find their place, but see ``MONAI_INEXACT``."""
    return Mapped(*_rename(state, monai_name))


def is_monai(state: Mapping[str, Any]) -> bool:
    """Return whether a state dict has the keys of MONAI's HoVerNet."""
    return any(key.startswith("res_blocks.") for key in state)


@cache
def official_keys() -> tuple[str, ...]:
    """Return every key of a `HoVerNet` with types; they are the same in both modes."""
    with torch.device("meta"):
        return tuple(HoVerNet("fast", 2).state_dict())


def tensorflow_name(key: str) -> str | None:
    """Return the name, less `:0`, of a weight of ours in a TensorFlow file; None where it has no part in one."""
    module, _, parameter = key.rpartition(".")
    module_name = _apply(TENSORFLOW_MODULES, module)
    parameters = TENSORFLOW_NORM if module_name and module_name.endswith("bn") else TENSORFLOW_CONVOLUTION
    if module_name is None or parameter not in parameters:
        return None
    return f"{module_name}/{parameters[parameter]}"


def monai_name(key: str) -> str | None:
    """Return the key of a weight of ours in MONAI's HoVerNet; None where it has none."""
    module, _, parameter = key.rpartition(".")
    found = re.fullmatch(BRANCH + r"(?P<block>u\d)\.(?P<rest>.+)", module)
    if found is None:
        name = _apply(MONAI_MODULES, module)
        return None if name is None else f"{name}.{parameter}"
    rest = found["rest"].replace("dense.blk_bna.", "bna_block.")
    if unit := re.fullmatch(r"dense\.units\.(\d+)\.(.+)", rest):
        layer = unit[2].replace("conv1/bn", "conv1/norm")
        rest = f"denselayerdecoder{int(unit[1]) + 1}.layers.{layer}"
    return f"{MONAI_BRANCHES[found['branch']]}.{MONAI_BLOCKS[found['block']]}.{rest}.{parameter}"


def _apply(rules: Rules, module: str) -> str | None:
    for pattern, replacement in rules:
        if found := re.fullmatch(pattern, module):
            return found.expand(replacement)
    return None


def _rename(
    state: Mapping[str, Any], name_of: Callable[[str], str | None]
) -> tuple[dict[str, Any], list[str]]:
    names = {key: name for key in official_keys() if (name := name_of(key)) is not None}
    renamed = {key: state[name] for key, name in names.items() if name in state}
    return renamed, sorted(set(state) - set(names.values()))


def _to_tensor(values: np.ndarray) -> Tensor:
    is_kernel = values.ndim == 4
    return torch.from_numpy(np.ascontiguousarray(values.transpose(3, 2, 0, 1) if is_kernel else values))
