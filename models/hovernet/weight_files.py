"""Files of weights, read without running anything they hold, and the digest that tells weights apart.

``checkpoint`` reads and writes networks through these; ``conversion`` reads other projects' files.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

SAFETENSORS, NPZ = ".safetensors", ".npz"
HEADER_KEY = "hovernet"  # of a safetensors file's metadata: our header, as JSON
TORCH_BEGINNINGS = (b"PK", b"\x80")  # of a zip archive, and of a pickle as older versions wrote it
UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError)


def digest_weights(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights in hexadecimal: of each key, in order, its number format, shape and bytes.

    It depends neither on the file's format nor on the order of keys, nor on strides and device.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        values = state[key].detach().cpu().contiguous()
        digest.update(f"{key}\n{str(values.dtype).removeprefix('torch.')}\n{tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_torch(path: Path) -> dict[str, Any]:
    """Read what `torch.save` wrote; only tensors and plain data are accepted.

    Raises:
        ValueError: for a pickled payload, a damaged file, or one without a dictionary.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not path.read_bytes().startswith(TORCH_BEGINNINGS):
            raise _unreadable(path, ValueError("not written by torch.save")) from error
        raise ValueError(
            f"{path} holds pickled objects besides tensors and plain data, which could run code when read: "
            "refused; save its state dict alone"
        ) from error
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint; save its state dict")
    return content


def read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a safetensors file.

    Returns:
        our header, empty in a file that is not ours, and the weights.

    Raises:
        ValueError: for a damaged file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
            return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, *UNREADABLE) as error:
        raise _unreadable(path, error) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a NumPy archive; pickled ones are refused.

    Raises:
        ValueError: for a pickled payload or a damaged file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, zlib.error, AttributeError, *UNREADABLE) as error:
        if "pickle" in str(error):
            raise ValueError(
                f"{path} holds pickled objects or no archive at all: refused, since they could run code when "
                "read; give the .npz of weights alone"
            ) from error
        raise _unreadable(path, error) from error


def write_atomically(content: Mapping[str, Any], path: Path) -> None:
    """Write with `torch.save` so that `path` holds either the old or the whole new content."""
    _replace(path, lambda temporary: torch.save(dict(content), temporary))


def write_safetensors(header: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights with our header so that `path` holds either the old or the whole new content.

    Raises:
        ValueError: where the header holds more than JSON can.
    """
    try:
        text = json.dumps(dict(header))
    except TypeError as error:
        raise ValueError(f"{path}: the notes hold more than JSON can say ({error}); write a .pt") from error
    tensors = {key: value.detach().contiguous() for key, value in state.items()}
    content = save(tensors, {HEADER_KEY: text, "format": "pt"})  # its save_file hides the file from others
    _replace(path, lambda temporary: temporary.write_bytes(content))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200]
    return ValueError(f"{path} is not a readable checkpoint ({reason}); copy or download it again")
