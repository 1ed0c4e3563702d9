"""Checkpoints: plain tensors and facts that say what they are; the official `.tar` files load as they come."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.hovernet.facts import ModelFacts
from models.hovernet.lite import HoVerNetLite
from models.hovernet.network import HoVerNet
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
TYPE_HEADS = ("decoder.tp.u0.conv.", "heads.tp.3.")  # last layer of the type branch, HoVerNet and lite


def save_checkpoint(network: Network, path: str | Path, **facts: Any) -> None:
    """Write a network with all that is needed to use it, under a temporary name first.

    Args:
        network: a `HoVerNet` or `HoVerNetLite`.
        path: file to write or replace.
        **facts: `types` ((name, (r, g, b)) per type, background first), `mpp` (µm/px), and further plain
            data. What is not given is taken from the network, where it was loaded or set as `network.facts`.
            `dtype` stores floating weights as that type, such as `torch.float16`.
    """
    dtype = facts.pop("dtype", None)
    known = network.facts
    types = facts.pop("types", known.types)
    content = {
        "format": FORMAT,
        "network": type(network).__name__,
        "arguments": network.arguments,
        "types": None if types is None else [(name, tuple(colour)) for name, colour in types],
        "mpp": facts.pop("mpp", known.mpp),
        "notes": known.notes | facts,
        "state": {
            key: value.to(dtype) if dtype and value.is_floating_point() else value
            for key, value in network.state_dict().items()
        },
    }
    write_atomically(content, Path(path))


def write_atomically(content: Mapping[str, Any], path: Path) -> None:
    """Write with `torch.save` so that `path` holds either the old or the whole new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(dict(content), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> Network:
    """Build the network that a checkpoint describes, in eval mode on the CPU, its facts as `network.facts`.

    Args:
        path: ours, or an official HoVer-Net `.tar`, whose mode and number of types follow from its weights.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is not a checkpoint, holds more than tensors and plain data, or does
            not hold the weights it says.
    """
    content = read_checkpoint(path)
    if content.get("format") == FORMAT:
        network, state = _build(content, path), content["state"]
        types = content["types"]
        types = None if types is None else tuple(NucleusType(name, tuple(rgb)) for name, rgb in types)
        facts = ModelFacts(types, content["mpp"], content["notes"])
    else:
        state = _official_state(content, path)
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
    content = read_checkpoint(path)
    state = content["state"] if content.get("format") == FORMAT else _official_state(content, path)
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

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a pickled payload, a damaged file, or one without a dictionary.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist; give the path of a checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds pickled objects besides tensors and plain data, which could run code when read: "
            "refused; save its state dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({error}); copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint; save its state dict")
    return content


def _build(content: Mapping[str, Any], path: str | Path) -> Network:
    name = content["network"]
    if name not in NETWORKS:
        raise ValueError(f"{path} holds network {name!r}; this version knows {', '.join(NETWORKS)}")
    return NETWORKS[name](**content["arguments"])


def _official_state(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return the state dict of an official file, DataParallel's prefix removed."""
    if "progress" in content and "states" in content:
        raise ValueError(f"{path} is the state of a training run; use best.pt or last.pt beside it")
    state = content.get("desc", content)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if not any(key.startswith(("d0.", "conv0.")) for key in state):
        raise ValueError(f"{path} is neither one of our checkpoints nor an official HoVer-Net file")
    return state


def _official_shape(state: Mapping[str, Tensor], path: str | Path) -> tuple[str, int | None]:
    key = "decoder.np.u3.conva.weight"
    if key not in state:
        raise ValueError(
            f"{path} holds an encoder without decoders; use it to start training: train.start_from"
        )
    head = state.get("decoder.tp.u0.conv.bias")
    return KERNEL_MODES[state[key].shape[-1]], None if head is None else len(head)
