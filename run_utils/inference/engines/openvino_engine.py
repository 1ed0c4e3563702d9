"""OpenVINO on a CPU; imported only in a process of its own, without torch."""

from __future__ import annotations

import os
import sys

import numpy as np

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # else the import reports itself to its makers
import openvino  # noqa: E402

DEVICE = "CPU"
FACTS_KEY = "hovernet"


class Engine:
    """Runs an ONNX or OpenVINO file; see `worker.Engine`."""

    def __init__(self, model_path: str, *, num_threads: int, precision: str) -> None:
        core = openvino.Core()
        known = core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        self.precision = precision if precision.upper() in known else "f32"
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            "INFERENCE_PRECISION_HINT": self.precision,
        }
        # one of several here, which would all be pinned to the same
        if num_threads < len(os.sched_getaffinity(0)):
            settings["ENABLE_CPU_PINNING"] = False
        self._request = core.compile_model(model_path, DEVICE, settings).create_infer_request()

    def run(self, tiles: np.ndarray, maps: list[np.ndarray]) -> None:
        """Fill float32 maps, in the order of the model's outputs, from (N, H, W, 3) uint8 RGB tiles."""
        outputs = self._request.infer({0: tiles}, share_inputs=True, share_outputs=True)
        for index, values in enumerate(maps):
            np.copyto(values, outputs[index])


def convert(onnx_path: str, xml_path: str, facts: str) -> None:
    """Write an ONNX file as OpenVINO's .xml and .bin, weights in float32, facts in the .xml's rt_info."""
    model = openvino.Core().read_model(onnx_path)
    model.set_rt_info(facts, [FACTS_KEY])
    openvino.save_model(model, xml_path, compress_to_fp16=False)


if __name__ == "__main__":
    convert(sys.argv[1], sys.argv[2], sys.stdin.read())
