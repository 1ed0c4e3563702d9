"""ONNX Runtime on a CPU, in float32; imported only in a process of its own, without torch."""

from __future__ import annotations

import os

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else each session reports itself to its makers
import onnxruntime  # noqa: E402


class Engine:
    """Runs an ONNX file; see `worker.Engine`."""

    def __init__(self, model_path: str, *, num_threads: int, precision: str) -> None:
        self.precision = "f32"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._session = onnxruntime.InferenceSession(model_path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def run(self, tiles: np.ndarray, maps: list[np.ndarray]) -> None:
        """Fill float32 maps, in the order of the model's outputs, from (N, H, W, 3) uint8 RGB tiles."""
        for values, output in zip(maps, self._session.run(None, {self._input: tiles}), strict=True):
            np.copyto(values, output)
