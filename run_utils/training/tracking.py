"""What a run tells: TensorBoard scalars and image panels, and one log line an epoch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


class Tracker:
    """Writes TensorBoard event files into a run's folder.

    Args:
        log_dir: folder for the event files.
        first_step: steps that are done; entries of an earlier attempt after it are hidden.
    """

    def __init__(self, log_dir: Path, first_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # late: it takes a second to import

        self._writer: Any = SummaryWriter(str(log_dir), purge_step=first_step + 1 if first_step else None)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Record named numbers under `group/name`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def image(self, name: str, panel: np.ndarray, step: int) -> None:
        """Record an (H, W, 3) uint8 RGB picture."""
        self._writer.add_image(name, panel, step, dataformats="HWC")

    def epoch(self, title: str, values: Mapping[str, float], step: int) -> None:
        """Record validation scores and say them in the log."""
        self.scalars("validation", values, step)
        logger.info("%s: %s", title, "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event files."""
        self._writer.close()
