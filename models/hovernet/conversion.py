"""Weights of any project brought to a network of ours, with the account of what found its place.

The official PyTorch files keep the state dict under `desc`, TIAToolbox's HoVerNet is the same network by the same
keys, bare. Its HoVerNet+ has another decoder, for layers of tissue, and is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.hovernet.checkpoint import (
    FORMAT,
    Network,
    build_stored,
    read_checkpoint,
    save_checkpoint,
    stored_state,
    stored_weights,
    unwrap_state,
)
from models.hovernet.foreign_keys import (
    MONAI_INEXACT,
    Mapped,
    from_monai,
    from_tensorflow,
    is_monai,
    official_keys,
)
from models.hovernet.network import HoVerNet
from models.hovernet.weight_files import NPZ, digest_weights, read_npz, write_atomically

logger = logging.getLogger(__name__)

OURS, PYTORCH, TENSORFLOW, MONAI = "ours", "official PyTorch or TIAToolbox", "official TensorFlow", "MONAI"
OFFICIAL, DECODER = ".tar", "decoder."
ENCODER = ("conv0.", "d0.", "d1.", "d2.", "d3.")
COUNTER = "num_batches_tracked"  # of batch norm: no output depends on it, and TensorFlow has none


@dataclass
class Imported:
    """A checkpoint that was read.

    Attributes:
        source: which project's keys and format it had.
        network: in eval mode, with its facts; None for an encoder alone.
        state: its weights as they lay in the file, under our keys.
        left: names in the file that have no place in the network.
        added: keys that the file lacks and no output depends on.
        dtype: number format of its floating weights.
    """

    source: str
    network: Network | None
    state: dict[str, Tensor]
    left: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    dtype: torch.dtype = torch.float32


def import_checkpoint(path: str | Path, *, allow_inexact: bool = False) -> Imported:
    """Read a checkpoint of ours, the official ones, TIAToolbox's or MONAI's.

    Args:
        path: `.npz` is TensorFlow's; others tell by their content.
        allow_inexact: accept weights whose network elsewhere gives other outputs than ours: MONAI's.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is none of these, is damaged, misses weights, or needs `allow_inexact`.
    """
    path = Path(path)
    if path.suffix == NPZ and path.is_file():
        return _of_keys(TENSORFLOW, from_tensorflow(read_npz(path)), path)
    content = read_checkpoint(path)
    if content.get("format") == FORMAT:
        network = build_stored(content, path)
        return Imported(OURS, network, content["state"], dtype=number_format(content["state"]))
    state = unwrap_state(content)
    if not is_monai(state):
        return _of_keys(PYTORCH, _from_official(stored_weights(content, path)), path)
    if not allow_inexact:
        raise ValueError(f"{path}: {MONAI_INEXACT}. To take the weights all the same, set allow_inexact=true")
    imported = _of_keys(MONAI, from_monai(state), path)
    if imported.network is not None:
        imported.network.facts.mpp = None
    return imported


def export_checkpoint(imported: Imported, path: Path, facts: Mapping[str, Any]) -> str:
    """Write what was read, in the format of the path's ending, its number format kept.

    Args:
        imported: what `import_checkpoint` gave.
        path: `.pt` and `.safetensors` are ours, `.tar` the official format, which holds weights alone.
        facts: for ours, what `save_checkpoint` takes.

    Returns:
        the SHA-256 of the weights as written.

    Raises:
        ValueError: where the format cannot hold the network.
    """
    network = imported.network
    if path.suffix != OFFICIAL:
        if network is None:
            raise ValueError(
                f"{path}: there are no decoders, and ours holds whole networks; write a .tar, which "
                "train.start_from takes"
            )
        return save_checkpoint(network, path, dtype=imported.dtype, **facts)
    if network is not None and not isinstance(network, HoVerNet):
        raise ValueError(
            f"{path}: the official format holds HoVerNet alone, this is {type(network).__name__}; write a .pt "
            "or .safetensors"
        )
    state = imported.state if network is None else stored_state(network, imported.dtype)
    write_atomically({"desc": state}, path)
    return digest_weights(state)


def _from_official(state: Mapping[str, Tensor]) -> Mapped:
    """Leave out of an encoder what is not its own; whole networks are taken or refused as they are."""
    if any(key.startswith(DECODER) for key in state):
        return Mapped(dict(state), [])
    known = {key: value for key, value in state.items() if key in official_keys()}
    return Mapped(known, sorted(set(state) - set(known)))


def _of_keys(source: str, mapped: Mapped, path: Path) -> Imported:
    state, left = mapped
    _check_complete(state, path)
    has_decoder = any(key.startswith(DECODER) for key in state)
    network = build_stored(state, path) if has_decoder else None
    added = [key for key in network.state_dict() if key not in state] if network is not None else []
    return Imported(source, network, state, left, added, number_format(state))


def _check_complete(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError, naming them, where weights of the encoder, or of the branches that there are, are missing."""
    branches = {key.split(".")[1] for key in state if key.startswith(DECODER)}
    parts = [f"{DECODER}{branch}." for branch in {"np", "hv", *branches}] if branches else []
    parts += [*ENCODER, "conv_bot."] if branches else ENCODER
    missing = [
        key
        for key in official_keys()
        if key.startswith(tuple(parts)) and not key.endswith(COUNTER) and key not in state
    ]
    if missing:
        listed = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise ValueError(
            f"{path} holds {len(state)} weights of HoVer-Net and misses {len(missing)}: {listed}; give the file of "
            "a HoVer-Net as its authors' code, TIAToolbox or MONAI writes it"
        )


def number_format(state: Mapping[str, Tensor]) -> torch.dtype:
    """Return the number format that all floating weights share, or the widest of them."""
    formats = {value.dtype for value in state.values() if value.is_floating_point()}
    return max(formats, key=lambda dtype: torch.finfo(dtype).bits, default=torch.float32)
