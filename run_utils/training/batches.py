"""Which patches a step takes: a pure function of seed, epoch and position, so that a killed run goes on alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from torch.utils.data import BatchSampler

from dataloader.patch_dataset import EpochSampler


def draw_batches(
    num_patches: int,
    batch_size: int,
    *,
    seed: int,
    epochs: range,
    num_batches: int,
    start: int,
    weights: np.ndarray | None = None,
) -> Iterator[list[int]]:
    """Yield the items of each batch of each epoch, beginning with batch `start` of the first."""
    for epoch in epochs:
        sampler = EpochSampler(num_patches, seed, epoch=epoch, start=start * batch_size, weights=weights)
        yield from itertools.islice(BatchSampler(sampler, batch_size, drop_last=True), num_batches - start)
        start = 0
