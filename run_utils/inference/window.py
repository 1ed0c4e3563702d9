"""Which window a network takes on the device at hand: tried out once, for about a second, and remembered."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from run_utils.devices import free_memory
from run_utils.files import locking, replacing
from run_utils.inference.predictors import Predictor

logger = logging.getLogger(__name__)

FILE_NAME = "windows.json"
PATIENCE = 1.0  # seconds that a window may take to be tried out
# seconds that the first, uncounted call of a window may take; on a GPU kernels are loaded and chosen in it
COLD_PATIENCE = {"cpu": 3.0, "cuda": 60.0}
TRIES = 2  # calls that count
GAIN = 0.95  # of the largest window's cost: a smaller one must save more than 5 % to be chosen
MEMORY_SHARE = 0.8  # of a GPU's free memory that a window may take
PIXELS = 1e6


def choose_window(
    predictor: Predictor, windows: Sequence[int], *, batch_size: int, facts: Mapping[str, Any], folder: Path
) -> int:
    """Return which of some windows costs least for a pixel of output; the largest, unless another is clearly better.

    What was found is remembered in a file, under what it depends on; delete the file to measure anew.

    Args:
        predictor: gives the maps.
        windows: sides in pixels, ascending, that fit the device's memory; the last is taken where nothing can be
            measured: a network that needs more than a second for a window is not tried out.
        batch_size: windows at once.
        facts: what the choice depends on: device, network, number format, engine.
        folder: holds the file.
    """
    if len(windows) == 1:
        return windows[0]
    path = folder / FILE_NAME
    key = json.dumps({**facts, "batch_size": batch_size}, sort_keys=True, default=str)
    known = _read(path).get(key)
    if known is None or known["window"] not in windows:
        costs = measure_windows(predictor, windows, batch_size)
        known = {"window": _cheapest(costs, windows), "seconds_per_mpx": costs}
        _remember(path, key, known)
        listed = ", ".join(f"{window} px {cost:.3f}" for window, cost in costs.items())
        logger.info(
            "window=%d: seconds a megapixel of output by window: %s (kept in %s)",
            known["window"], listed or "too slow to try out", path,
        )  # fmt: skip
    return int(known["window"])


def measure_windows(predictor: Predictor, windows: Sequence[int], batch_size: int) -> dict[int, float]:
    """Return the seconds that a megapixel of output takes by window, as far as a second for each allows.

    Those of the first window for which memory is too short are infinite.

    Args:
        predictor: gives the maps.
        windows: sides in pixels, ascending.
        batch_size: windows at once.
    """
    costs: dict[int, float] = {}
    seconds = taken = 0.0
    for before, window in zip([windows[0], *windows], windows, strict=False):
        growth = (window / before) ** 2
        if seconds * growth > PATIENCE:
            break
        if taken * growth > MEMORY_SHARE * free_memory(predictor.device):
            costs[window] = math.inf
            break
        side = predictor.geometry.input_size_for(window - predictor.geometry.margin)
        try:
            seconds, taken = _try_out(predictor, side, batch_size)
        except (MemoryError, RuntimeError) as error:
            logger.info("windows of %d px and more are left out: %s", window, error)
            costs[window] = math.inf
            break
        if seconds > PATIENCE:
            break
        costs[window] = seconds / (batch_size * predictor.geometry.output_size(side) ** 2) * PIXELS
    return costs


def _try_out(predictor: Predictor, side: int, batch_size: int) -> tuple[float, float]:
    """Return the seconds and, on a GPU, the bytes that a batch takes once its kernels are chosen."""
    tiles = np.random.default_rng(0).integers(0, 256, (batch_size, side, side, 3), np.uint8)
    is_gpu = predictor.device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(predictor.device)
    times = []
    for _ in range(1 + TRIES):
        start = time.perf_counter()
        predictor.predict(tiles)
        times.append(time.perf_counter() - start)
        if times[0] > COLD_PATIENCE[predictor.device.type]:
            break
    taken = torch.cuda.max_memory_allocated(predictor.device) if is_gpu else 0
    return min(times[1:] or times), float(taken)


def _cheapest(costs: Mapping[int, float], windows: Sequence[int]) -> int:
    """Return the largest window that fits, unless it was measured and another one is clearly better."""
    too_large = min((window for window, cost in costs.items() if cost == math.inf), default=math.inf)
    largest = max((window for window in windows if window < too_large), default=windows[0])
    if largest not in costs:
        return largest
    best = min(costs, key=lambda window: costs[window])
    return best if costs[best] < GAIN * costs[largest] else largest


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):  # absent, or not ours: it is written anew
        return {}
    return content if isinstance(content, dict) else {}


def _remember(path: Path, key: str, choice: Mapping[str, Any]) -> None:
    try:
        with locking(path.parent), replacing(path) as temporary:
            temporary.write_text(json.dumps({**_read(path), key: choice}, indent=1) + "\n")
    except OSError as error:  # a cache that cannot be written costs a second each time, nothing else
        logger.warning("%s could not be written: %s", path, error)
