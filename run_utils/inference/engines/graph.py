"""A network as a graph that other programs run: tiles in, probabilities out.

All formats come from one trace: TorchScript is the trace itself, ONNX is written from it, and OpenVINO reads ONNX.
Batch, height and width stay open; a graph does not check them: the network's geometry says which sizes are right.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from models.hovernet.checkpoint import Network
from models.hovernet.probabilities import ProbabilityNetwork

INPUT = "tiles"
OUTPUTS = ("nuclei", "hv", "types")
AXES = {  # that stay open
    "tiles": {0: "N", 1: "H", 2: "W"},
    "nuclei": {0: "N", 1: "h", 2: "w"},
    "hv": {0: "N", 2: "h", 3: "w"},
    "types": {0: "N", 2: "h", 3: "w"},
}


def trace(network: Network, *, is_small: bool = False) -> torch.jit.ScriptModule:
    """Return a network as a traced `ProbabilityNetwork`, on the CPU and in float32; the network stays as it is."""
    own = ProbabilityNetwork(copy.deepcopy(network).cpu().float(), is_small=is_small).eval()
    with torch.no_grad(), exporting():
        # What follows from a size's remainder becomes a constant: it is the same for all valid sizes.
        traced: torch.jit.ScriptModule = torch.jit.trace(own, (_example(network),), check_trace=False)
    return traced


def write_onnx(traced: torch.jit.ScriptModule, network: Network, path: Path) -> None:
    """Write the trace of a network as ONNX."""
    outputs = output_names(network)
    with torch.no_grad(), exporting():
        # The exporter of torch.export gives the same maps, but needs another package and eight times as long.
        torch.onnx.export(
            traced,
            (_example(network),),
            str(path),
            dynamo=False,
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_axes={name: AXES[name] for name in (INPUT, *outputs)},
        )


def output_names(network: Network) -> tuple[str, ...]:
    """Return what a network's graph gives, in order."""
    return OUTPUTS[: 2 if network.num_types is None else 3]


@contextmanager
def exporting() -> Iterator[None]:
    """Keep torch quiet about tracing, which it would rather have replaced: TorchScript is nothing but a trace."""
    with warnings.catch_warnings():
        for category in (torch.jit.TracerWarning, FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield


def _example(network: Network) -> Tensor:
    height, width = (network.geometry.input_size_for(n * network.geometry.multiple) for n in (1, 2))
    return torch.zeros(2, height, width, 3, dtype=torch.uint8)
