"""The process of an engine: `python -m run_utils.inference.engines.worker ORDER`; it imports no torch.

ORDER is JSON: the engine's name and arguments, and the descriptor of the shared memory. Then a line of JSON comes on
standard input for each batch, the shapes of tiles and maps, and a line goes back when the maps are there. The process
ends with its input, so also when the process that started it is killed.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any, Protocol, TextIO

import numpy as np

from run_utils.inference.engines.shared import SharedArrays

OUT_OF_MEMORY = ("bad_alloc", "allocate")  # how engines say it
MESSAGE_LENGTH = 400


class Engine(Protocol):
    """Runs one model.

    Attributes:
        precision: the number format that it computes in: f32, bf16 or f16.
    """

    precision: str

    def __init__(self, model_path: str, *, num_threads: int, precision: str) -> None:
        """Load a model; a number format that the CPU lacks gives f32."""

    def run(self, tiles: np.ndarray, maps: list[np.ndarray]) -> None:
        """Fill float32 maps, in the order of the model's outputs, from (N, H, W, 3) uint8 RGB tiles."""


def main() -> None:
    """Load the model, and answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; its end is ours
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints is no answer
    order = json.loads(sys.argv[1])
    memory = SharedArrays(order.pop("descriptor"))
    try:
        engine = _load(**order)
        _send(answers, {"precision": engine.precision})
    except Exception as error:
        _send(answers, _describe(error))
        return
    for line in sys.stdin:
        _send(answers, _answer(engine, memory, json.loads(line)))


def _load(engine: str, **arguments: Any) -> Engine:
    module = importlib.import_module(f"run_utils.inference.engines.{engine}_engine")
    loaded: Engine = module.Engine(**arguments)
    return loaded


def _answer(engine: Engine, memory: SharedArrays, shapes: list[list[int]]) -> dict[str, Any]:
    try:
        tiles, *maps = memory.view(shapes)
        engine.run(tiles, maps)
    except Exception as error:
        return _describe(error)
    return {}


def _describe(error: Exception) -> dict[str, Any]:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:MESSAGE_LENGTH]
    is_memory = isinstance(error, MemoryError) or any(word in text for word in OUT_OF_MEMORY)
    return {"error": text, "is_memory": is_memory}


def _send(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
