"""Runs a network inside a Triton server, as the `model.py` of its Python backend; needs onnxruntime and numpy there.

`export_model.py to=triton triton.backend=python` copies this file beside the network; nothing else of the project is
on the server.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else each session reports itself to its makers
import onnxruntime  # noqa: E402
import triton_python_backend_utils as server  # noqa: E402

INPUT = "tiles"
FILE_NAME = "model.onnx"


class TritonPythonModel:
    """One instance of the network; its methods are called by the server."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the network.

        Args:
            args: of the server: the model's configuration as JSON, its folder and version, and the instance's device.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        options = onnxruntime.SessionOptions()
        num_threads = int(parameters["intra_op_thread_count"]["string_value"])
        options.intra_op_num_threads = num_threads or len(os.sched_getaffinity(0))
        providers: list[Any] = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU":
            chosen = {"device_id": args["model_instance_device_id"]}
            providers.insert(0, ("CUDAExecutionProvider", chosen))
        path = Path(args["model_repository"]) / args["model_version"] / FILE_NAME
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, (N, H, W, 3) uint8 RGB tiles of one H and W each, with their maps; all run as one batch."""
        tiles = [server.get_input_tensor_by_name(request, INPUT).as_numpy() for request in requests]
        whole = tiles[0] if len(tiles) == 1 else np.concatenate(tiles)
        maps = self._session.run(self._outputs, {INPUT: whole})
        starts = np.cumsum([0, *map(len, tiles)])
        return [
            server.InferenceResponse(
                [
                    server.Tensor(name, part[start:stop])
                    for name, part in zip(self._outputs, maps, strict=True)
                ]
            )
            for start, stop in zip(starts[:-1], starts[1:], strict=True)
        ]
