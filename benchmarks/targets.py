"""Print how long encoding takes, ours and one nucleus after another: ``python -m benchmarks.targets``."""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch

from benchmarks.figures import Figure, state
from benchmarks.plain import plain_hv
from benchmarks.timing import median_ms
from models.hovernet.targets import make_targets

PATCH_SIZE, OUTPUT_SIZE = 540, 164
"""Pixels; the patches that training cuts, and what the ``fast`` network predicts of them."""


def main() -> None:
    """Encode a patch of 256 touching nuclei in both ways, for the whole patch and for the output alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16, help="nuclei along each side of the patch")
    parser.add_argument("--repeats", type=int, default=50, help="runs that a median is of")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the loop over nuclei has one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    label_map = touching_discs(PATCH_SIZE, arguments.rows)
    start = (PATCH_SIZE - OUTPUT_SIZE) // 2
    window = slice(start, start + OUTPUT_SIZE)
    is_shown = np.isin(label_map, np.unique(label_map[window, window]))
    loops = {"all nuclei": label_map, "the nuclei that the output shows": np.where(is_shown, label_map, 0)}
    asked = {"all nuclei": "at least 50 times"}
    patches = torch.from_numpy(label_map)[None]
    ours_ms, targets = median_ms(partial(make_targets, patches, None, OUTPUT_SIZE), arguments.repeats)
    print(f"make_targets {PATCH_SIZE} to {OUTPUT_SIZE}: {ours_ms:.2f} ms, {arguments.threads} thread(s)")
    for name, labels in loops.items():
        plain_ms, hv = median_ms(partial(plain_hv, labels), max(arguments.repeats // 10, 1))
        np.testing.assert_allclose(targets.hv[0].numpy(), hv[:, window, window], atol=1e-6)
        what = f"targets, {PATCH_SIZE} to {OUTPUT_SIZE} px, {len(np.unique(labels)) - 1} nuclei"
        way = f"one after another, {name}"
        state(Figure(what, ours_ms, "ms", plain_ms, way, asked=asked.get(name, "")))


def touching_discs(size: int, rows: int) -> np.ndarray:
    """Return (size, size) int32 ids of ``rows`` x ``rows`` discs, each as wide as its place."""
    pitch = size / rows
    y, x = np.mgrid[:size, :size]
    row, column = (y / pitch).astype(np.int32), (x / pitch).astype(np.int32)
    distance = np.hypot(y - (row + 0.5) * pitch, x - (column + 0.5) * pitch)
    return np.where(distance < pitch / 2, row * rows + column + 1, 0).astype(np.int32)


if __name__ == "__main__":
    main()
