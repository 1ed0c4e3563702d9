"""COCO's run lengths to masks: plain lists, and the text that pycocotools packs them into (its ``maskApi.c``).

Runs go down the columns, background first. A number of the text is made of groups of five bits, lowest first, each a
character from ``"0"`` (48) on; bit 5 says that more follow, the last group's bit 4 is the sign. From the fourth run on,
the number is the difference to the run two before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FIRST_DELTA = 3  # index of the first run that is stored as a difference


def decode_runs(segmentation: Mapping[str, Any], shape: Sequence[int]) -> np.ndarray:
    """Decode a mask.

    Args:
        segmentation: ``size`` [H, W] and ``counts``, a list or text.
        shape: (H, W) that the mask must have; compared first, so that a few runs cannot fill the memory.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: where the runs are malformed, of another size, or do not cover the mask.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (
        isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    ):
        raise ValueError(f"run lengths of size {size}; [height, width] is needed")
    if tuple(size) != tuple(shape):
        raise ValueError(f"run lengths of {tuple(size)} for an image of {tuple(shape)}")
    if isinstance(counts, str):
        counts = unpack(counts)
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        raise ValueError("run lengths that are no list of numbers from 0 up")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"run lengths that cover {sum(counts)} of {size[0]} x {size[1]} pixels")
    is_nucleus = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_nucleus, counts).reshape(size, order="F")


def unpack(text: str) -> list[int]:
    """Return the runs of a packed text; raises ValueError for one that is cut off or has other characters."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise ValueError(f"run lengths with the character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) >= FIRST_DELTA else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that are cut off")
    return runs
