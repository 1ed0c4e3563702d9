"""Checkpoints: plain tensors and facts that say what they are; the official files load as they come."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.hovernet.facts import ModelFacts
from models.hovernet.foreign_keys import UNUSED_BUFFERS, from_tensorflow, is_monai
from models.hovernet.lite import HoVerNetLite
from models.hovernet.network import HoVerNet
from models.hovernet.weight_files import (
    NPZ,
    SAFETENSORS,
    digest_weights,
    read_npz,
    read_safetensors,
    read_torch,
    write_atomically,
    write_safetensors,
)
from models.nuclei import NucleusType

logger = logging.getLogger(__name__)

FORMAT = "hovernet-checkpoint"
Network = HoVerNet | HoVerNetLite
NETWORKS: dict[str, type[Network]] = {
    "HoVerNet": HoVerNet,
    "HoVerNetLite": HoVerNetLite,
}
OFFICIAL_MPP = 0.25  # µm/px of the data sets that the official weights were trained on
KERNEL_MODES = {5: "original", 3: "fast"}
WRAPPERS = ("desc", "state_dict", "model", "network", "net")  # what a file may keep its state dict under
TYPE_HEADS = ("decoder.tp.u0.conv.", "heads.tp.3.")  # last layer of the type branch, HoVerNet and lite


def save_checkpoint(network: Network, path: str | Path, **facts: Any) -> str:
    """Write a network with all that is needed to use it, under a temporary name first.

    Args:
        network: a `HoVerNet` or `HoVerNetLite`.
        path: file to write or replace; `.safetensors` chooses that format, whose notes must be JSON.
        **facts: `types` ((name, (r, g, b)) per type, background first), `mpp` (µm/px), and further plain
            data. What is not given is taken from the network, where it was loaded or set as `network.facts`.
            `dtype` stores floating weights as that type, such as `torch.float16`.

    Returns:
        the SHA-256 of the weights as written, which the file holds too.
    """
    dtype = facts.pop("dtype", None)
    known = network.facts
    types = facts.pop("types", known.types)
    state = stored_state(network, dtype)
    digest = digest_weights(state)
    header = {
        "format": FORMAT,
        "network": type(network).__name__,
        "arguments": network.arguments,
        "types": None if types is None else [(name, tuple(colour)) for name, colour in types],
        "mpp": facts.pop("mpp", known.mpp),
        "notes": known.notes | facts,
        "digest": digest,
    }
    if Path(path).suffix == SAFETENSORS:
        write_safetensors(header, state, Path(path))
    else:
        write_atomically({**header, "state": state}, Path(path))
    return digest


def stored_state(network: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return a network's weights as a file is to hold them, floating ones as `dtype` where it is given."""
    return {
        key: value.to(dtype) if dtype and value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }


def load_checkpoint(path: str | Path) -> Network:
    """Build the network that a checkpoint describes, in eval mode on the CPU, its facts as `network.facts`.

    Args:
        path: ours (`.pt` or `.safetensors`), or an official HoVer-Net `.tar` or `.npz`, whose mode and number
            of types follow from its weights.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is not a checkpoint, holds more than tensors and plain data, or does
            not hold the weights it says.
    """
    return build_stored(read_checkpoint(path), path)


def build_stored(content: Mapping[str, Any], path: str | Path) -> Network:
    """Build the network that a checkpoint's content describes; see `load_checkpoint`."""
    state = stored_weights(content, path)
    if content.get("format") == FORMAT:
        network = _build(content, path)
        types = content["types"]
        types = None if types is None else tuple(NucleusType(name, tuple(rgb)) for name, rgb in types)
        facts = ModelFacts(types, content["mpp"], content["notes"], content.get("digest"))
    else:
        state = {**UNUSED_BUFFERS, **state}
        network = HoVerNet(*_official_shape(state, path))
        facts = ModelFacts(mpp=OFFICIAL_MPP)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} does not hold the weights of its network: {reason}") from error
    network.facts = facts
    return network.eval()


def load_weights(network: nn.Module, path: str | Path) -> list[str]:
    """Start a network from another's weights, all but those of another shape, such as another type head.

    Returns:
        the keys that keep their fresh weights; each is logged.

    Raises:
        ValueError: where nothing of the file fits the network.
    """
    state = stored_weights(read_checkpoint(path), path)
    own = network.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise ValueError(
            f"{path} holds no weight of {type(network).__name__}; choose the model it was made from"
        )
    fresh = [key for key in own if key not in fitting]
    network.load_state_dict({**own, **fitting})
    if fresh:
        listed = ", ".join(fresh[:4]) + (f" and {len(fresh) - 4} more" if len(fresh) > 4 else "")
        is_head = all(key.startswith(TYPE_HEADS) for key in fresh)
        logger.warning(
            "%s: %d of %d weights loaded; %s fresh: %s",
            path, len(fitting), len(own), "the type head starts" if is_head else "these start", listed,
        )  # fmt: skip
    return fresh


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's content; only tensors and plain data are accepted.

    Returns:
        ours as it was written; of others the state dict, perhaps wrapped; TensorFlow's with our keys.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a pickled payload, a damaged file, or one without a dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist; give the path of a checkpoint file")
    if path.suffix == NPZ:
        return dict(from_tensorflow(read_npz(path)).state)
    if path.suffix == SAFETENSORS:
        header, state = read_safetensors(path)
        return {**header, "state": state} if header else dict(state)
    return read_torch(path)


def stored_weights(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint's content, keyed as our networks are.

    Raises:
        ValueError: where it is no checkpoint, or does not hold the weights that it was written with.
    """
    if content.get("format") != FORMAT:
        return _official_state(content, path)
    missing = [
        key for key in ("network", "arguments", "types", "mpp", "notes", "state") if key not in content
    ]
    if missing:
        raise ValueError(f"{path} misses {', '.join(missing)}, so it is damaged; copy or download it again")
    state: dict[str, Tensor] = content["state"]
    digest = content.get("digest")
    if digest is not None and digest != digest_weights(state):
        raise ValueError(
            f"{path} does not hold the weights it was written with, their digest differs; copy or download it "
            "again"
        )
    return state


def unwrap_state(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict in a file of another project, DataParallel's prefix removed."""
    for name in WRAPPERS:
        if isinstance(content.get(name), Mapping):
            content = content[name]
            break
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _build(content: Mapping[str, Any], path: str | Path) -> Network:
    name = content["network"]
    if name not in NETWORKS:
        raise ValueError(f"{path} holds network {name!r}; this version knows {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**content["arguments"])
    except TypeError as error:
        raise ValueError(f"{path} was written by another version: {error}") from error


def _official_state(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return the state dict of an official file."""
    if "progress" in content and "states" in content:
        raise ValueError(f"{path} is the state of a training run; use best.pt or last.pt beside it")
    state = unwrap_state(content)
    if is_monai(state):
        raise ValueError(
            f"{path} has MONAI's keys: bring it to ours by convert_checkpoint.py, which says what differs"
        )
    if not any(key.startswith("d0.") for key in state):
        raise ValueError(f"{path} is neither one of our checkpoints nor an official HoVer-Net file")
    others = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"{path}: {others[0]} is not a tensor; save the state dict of the network alone")
    return state


def _official_shape(state: Mapping[str, Tensor], path: str | Path) -> tuple[str, int | None]:
    key = "decoder.np.u3.conva.weight"
    if key not in state:
        raise ValueError(
            f"{path} holds an encoder without decoders; use it to start training: train.start_from={path}"
        )
    kernel = state[key].shape[-1]
    if kernel not in KERNEL_MODES:
        raise ValueError(
            f"{path} has decoders of {kernel} px kernels; HoVer-Net has 5 (original) or 3 (fast)"
        )
    head = state.get("decoder.tp.u0.conv.bias")
    return KERNEL_MODES[kernel], None if head is None else len(head)
