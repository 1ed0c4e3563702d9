"""How fast training goes, and how much of the time its device waits for data."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from run_utils.profiling import StageClock

WAIT, TRANSFORMS, FORWARD, LOSS = "wait for data", "transforms", "forward", "loss"
BACKWARD, OPTIMIZER = "backward", "optimizer"


@dataclass(frozen=True)
class Usage:
    """What training took up to a moment; what it took between two is the later one less the earlier.

    Attributes:
        patches: trained on.
        seconds: that passed, without validation.
        stages: seconds of each stage; see ``StageClock``.
    """

    patches: int = 0
    seconds: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)

    def __sub__(self, earlier: Usage) -> Usage:
        stages = {name: spent - earlier.stages.get(name, 0.0) for name, spent in self.stages.items()}
        return Usage(self.patches - earlier.patches, self.seconds - earlier.seconds, stages)

    def __str__(self) -> str:
        return f"{self.patches_per_second:.1f} patches/s, {self.wait_share:.0%} of the time waiting for data"

    @property
    def patches_per_second(self) -> float:
        """Patches through loader, transforms and step, by the second; 0 for none."""
        return self.patches / self.seconds if self.patches else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the time, 0..1, in which the device had nothing to do until data came; 0 without patches.

        On a CPU that is the time until the loader gives a batch; a GPU that is still busy then does not wait.
        """
        return self.stages.get(WAIT, 0.0) / self.seconds if self.patches else 0.0


class ThroughputMeter:
    """Counts patches and times stages while it runs; no step waits for the device.

    Args:
        device: that training runs on.
    """

    def __init__(self, device: torch.device) -> None:
        self.stage = StageClock(device)
        self._patches = 0
        self._seconds = 0.0
        self._started: float | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block, and of what the device still has to do at its end."""
        self._started = time.perf_counter()
        try:
            yield
            self.stage.read()
        finally:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    def add(self, num_patches: int) -> None:
        """Count patches that went through a step."""
        self._patches += num_patches

    def read(self) -> Usage:
        """Return what was used so far; waits for the device."""
        stages = self.stage.read()
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return Usage(self._patches, self._seconds + running, stages)
