"""Sums of the loss terms on the device: read now and then, so that no step waits for it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class LossMeter:
    """Means of the loss terms since the last reset, and which term stopped being finite first."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self.reset()

    def reset(self) -> None:
        """Forget all that was added."""
        self._sums: Tensor | None = None
        self._first_broken: Tensor | None = None
        self._count = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add the scalars of one batch, without waiting for the device."""
        values = torch.stack([term.detach().float() for term in terms.values()])
        if self._sums is None or self._first_broken is None:
            self._names = list(terms)
            self._sums = torch.zeros_like(values)
            self._first_broken = torch.full_like(values, math.inf)
        self._sums += values
        broken_now = torch.where(values.isfinite(), math.inf, float(self._count))
        self._first_broken = torch.minimum(self._first_broken, broken_now)
        self._count += 1

    def means(self) -> dict[str, float]:
        """Return the mean of each term; empty where nothing was added. Waits for the device.

        Raises:
            FloatingPointError: where a term was not finite; names those that broke first.
        """
        if self._sums is None or self._first_broken is None:
            return {}
        sums, first_broken = torch.stack([self._sums, self._first_broken]).tolist()
        earliest = min(first_broken)
        if math.isfinite(earliest):
            pairs = zip(self._names, first_broken, strict=True)
            names = [name for name, batch in pairs if batch == earliest]
            raise FloatingPointError(f"loss {', '.join(names)} is not finite")
        return {name: value / self._count for name, value in zip(self._names, sums, strict=True)}
