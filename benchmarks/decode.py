"""Print how long decoding takes, ours and one nucleus after another: ``python -m benchmarks.decode``."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import torch

from benchmarks.plain import plain_label_map, plain_nuclei
from benchmarks.timing import median_ms
from models.hovernet.postprocess import NORMALISATIONS, decode
from models.hovernet.targets import make_targets

MPP = 0.25
NUCLEI_PER_MM2 = 5000  # a million on the 200 mm² of tissue of a large section
RADIUS = 14.0  # px: 7 µm across
RATE_SIZE = 2240  # px: a region with its halo


def main() -> None:
    """Decode 2048x2048 maps of 4096 touching nuclei with five types in both ways, and compare the nuclei."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="height and width, pixels")
    parser.add_argument("--rows", type=int, default=64, help="nuclei along each side")
    parser.add_argument("--repeats", type=int, default=3, help="runs that a median is of")
    arguments = parser.parse_args()
    probability, hv, types = touching_nuclei(arguments.size, arguments.rows)

    def plain() -> np.ndarray:
        label_map = plain_label_map(probability, hv)
        plain_nuclei(label_map, types.argmax(axis=0))
        return label_map

    plain_ms, expected = median_ms(plain, arguments.repeats)
    print(f"one nucleus after another  {plain_ms:8.0f} ms  {len(np.unique(expected)) - 1} nuclei")
    for normalisation in NORMALISATIONS:
        run = partial(decode, probability, hv, types, normalisation)
        ours_ms, (label_map, nuclei) = median_ms(run, arguments.repeats)
        if normalisation == "reference" and not same_nuclei(label_map, expected):
            raise SystemExit("the reference mode's nuclei differ from those found one after another")
        note = "the same nuclei" if normalisation == "reference" else f"{len(nuclei)} nuclei"
        print(f"decode, {normalisation:<18} {ours_ms:8.0f} ms  {note}, {plain_ms / ours_ms:.1f} times faster")
    print_rate(arguments.repeats)


def print_rate(repeats: int) -> None:
    """Print the seconds that two threads take for a mm² as dense as a slide of a million nuclei on 200 mm²."""
    cv2.setNumThreads(1)
    rows = round(RATE_SIZE * MPP / 1000 * NUCLEI_PER_MM2**0.5)
    maps = touching_nuclei(RATE_SIZE, rows, radius=RADIUS)
    mm2 = 2 * (RATE_SIZE * MPP / 1000) ** 2

    def run() -> list[int]:
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(lambda _: len(decode(*maps)[1]), range(2)))

    both_ms, counts = median_ms(run, repeats)
    print(
        f"two threads, {sum(counts) / mm2:,.0f} nuclei/mm²: {both_ms / 1000 / mm2:.2f} s/mm² at {MPP} µm/px"
    )


def touching_nuclei(
    size: int, rows: int, seed: int = 0, radius: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the maps of ``rows`` x ``rows`` ellipses, HV a little noisy.

    All of them touch; or, of a ``radius`` in pixels, pairs do.
    """
    rng = np.random.default_rng(seed)
    pitch = size / rows
    label_map = np.zeros((size, size), np.int32)
    for number in range(rows**2):
        centre = (np.array(divmod(number, rows)) + 0.5) * pitch
        if radius is not None:
            centre[1] += (pitch / 2 - radius) * (1 if number % 2 == 0 else -1)
        radii = (pitch / 2 if radius is None else radius) * rng.uniform(0.85, 1.1, 2)
        low = np.maximum(np.floor(centre - radii), 0).astype(int)
        high = np.minimum(np.ceil(centre + radii) + 1, size).astype(int)
        y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
        is_inside = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1
        window = label_map[low[0] : high[0], low[1] : high[1]]
        window[is_inside & (window == 0)] = number + 1
    targets = make_targets(torch.from_numpy(label_map)[None])
    hv = targets.hv[0].numpy() + rng.normal(scale=0.05, size=(2, size, size)).astype(np.float32)
    types = rng.dirichlet(np.ones(5), (size, size)).astype(np.float32)
    return targets.nuclei[0].numpy().astype(np.float32), hv, np.ascontiguousarray(types.transpose(2, 0, 1))


def same_nuclei(first: np.ndarray, second: np.ndarray) -> bool:
    """Say whether two label maps hold the same nuclei, whatever their ids."""
    pairs = np.unique(first.ravel().astype(np.int64) * (int(second.max()) + 1) + second.ravel())
    return len(pairs) == len(np.unique(first)) == len(np.unique(second))


if __name__ == "__main__":
    main()
