"""This side of an engine's process: starts it, hands it tiles, takes its maps, and says how it ended."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from run_utils.inference.engines.shared import SharedArrays

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[3]
MODULES = "run_utils.inference.engines"
EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}  # engine -> extra of pyproject.toml that installs it
PACKAGES = {name: (name, "onnx") for name in EXTRAS}
PATIENCE = 5.0  # seconds for a process to end by itself


class EngineProcess:
    """Runs one model file with one engine, in a process that starts again where it died.

    Args:
        engine: `openvino` or `onnxruntime`.
        model_path: an ONNX file; of OpenVINO also its .xml.
        num_threads: of the engine.
        precision: f32, bf16 or f16; what the engine or the CPU lacks gives f32.

    Raises:
        RuntimeError: where the engine cannot load the model.
    """

    def __init__(self, engine: str, model_path: Path, *, num_threads: int, precision: str = "f32") -> None:
        self.engine = engine
        self._memory = SharedArrays()
        self._order = {
            "engine": engine,
            "model_path": str(model_path.resolve()),
            "num_threads": num_threads,
            "precision": precision,
            "descriptor": self._memory.descriptor,
        }
        self._lock = threading.Lock()
        self._child = self._start()

    def run(self, tiles: np.ndarray, map_shapes: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return float32 maps of the shapes given, in the order of the model's outputs.

        Args:
            tiles: (N, H, W, 3) uint8 RGB.
            map_shapes: of the maps that the model gives for these tiles.

        Raises:
            MemoryError: where the engine has not enough.
            RuntimeError: where the engine fails, or its process ended; the next call starts another.
        """
        shapes = [list(tiles.shape), *(list(shape) for shape in map_shapes)]
        with self._lock:
            if self._child.poll() is not None:
                logger.warning("the process of %s is gone: starts again", self.engine)
                self._child = self._start()
            shared_tiles, *shared_maps = self._memory.view(shapes)
            np.copyto(shared_tiles, tiles)
            self._ask(self._child, json.dumps(shapes))
            return [values.copy() for values in shared_maps]

    def close(self) -> None:
        """End the process."""
        _end(self._child)

    @property
    def pid(self) -> int:
        """The id of the engine's process."""
        return self._child.pid

    def _start(self) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [*python_module("worker"), json.dumps(self._order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            pass_fds=(self._memory.descriptor,),
        )
        weakref.finalize(self, _end, child)
        answer = self._ask(child, "")
        logger.info(
            "%s runs the network in %s with %d threads",
            self.engine, answer["precision"], self._order["num_threads"],
        )  # fmt: skip
        return child

    def _ask(self, child: subprocess.Popen[str], line: str) -> dict[str, Any]:
        """Send a line and return the answer to it."""
        try:
            answer = _exchange(child, line)
        except BaseException:  # an answer may still come, which must not be taken for that to another line
            child.kill()
            child.wait()
            raise
        if not answer:
            _end(child)
            raise RuntimeError(f"the process of {self.engine} ended at work: {_describe_ending(child)}")
        content: dict[str, Any] = json.loads(answer)
        if content.get("is_memory"):
            raise MemoryError(
                f"{self.engine} has not enough memory ({content['error']}); set window= to a smaller size"
            )
        if "error" in content:
            raise RuntimeError(f"{self.engine} failed: {content['error']}")
        return content


def missing_packages(engine: str) -> list[str]:
    """Return what an engine needs and is not installed."""
    return [name for name in PACKAGES[engine] if importlib.util.find_spec(name) is None]


def check_installed(engine: str, setting: str) -> None:
    """Raise ValueError where an engine that a setting asks for is not installed; it names the command that does."""
    missing = missing_packages(engine)
    if missing:
        raise ValueError(
            f"{setting} needs {' and '.join(missing)}, not installed here: "
            f"uv pip install -r pyproject.toml --extra {EXTRAS[engine]} -c constraints.txt"
        )


def python_module(name: str) -> list[str]:
    """Return the command that runs a module of this package; `-P` keeps the working folder off its path."""
    return [sys.executable, "-P", "-m", f"{MODULES}.{name}"]


def environment() -> dict[str, str]:
    """Return the environment in which `python_module` finds the package."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _exchange(child: subprocess.Popen[str], line: str) -> str:
    """Send a line, unless it is empty, and return the one that comes back; an empty one where the process ended."""
    assert child.stdin is not None and child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        if line:
            child.stdin.write(line + "\n")
            child.stdin.flush()
        return child.stdout.readline()
    return ""


def _describe_ending(child: subprocess.Popen[str]) -> str:
    if child.returncode == -signal.SIGKILL:
        return "it was killed, perhaps for want of memory; set window= to a smaller size"
    return f"exit status {child.returncode}"


def _end(child: subprocess.Popen[str]) -> None:
    """Let a process end by closing its input, or end it."""
    assert child.stdin is not None and child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    child.stdout.close()
