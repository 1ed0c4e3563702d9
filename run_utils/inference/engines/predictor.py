"""A Predictor whose network runs with OpenVINO or ONNX Runtime, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch

from models.hovernet.checkpoint import Network
from models.hovernet.facts import ModelFacts
from models.hovernet.geometry import Geometry
from models.hovernet.weight_files import digest_weights
from run_utils.devices import usable_cpus
from run_utils.files import locking, replacing
from run_utils.inference.engines import graph
from run_utils.inference.engines.process import EXTRAS, EngineProcess, check_installed
from run_utils.inference.monitor import NETWORK, Monitor
from run_utils.inference.predictors import ProbabilityMaps, Tiles

logger = logging.getLogger(__name__)

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
NETWORK_SOURCES = Path(graph.__file__).parents[3] / "models" / "hovernet"
DIGEST_LENGTH = 32
MOST_KEPT = 8  # exported networks: HoVerNet takes 220 MB


class EnginePredictor:
    """Runs a network with an engine on the CPU; ONNX Runtime computes in float32 whatever is asked.

    The network is exported once, to the cache. The engine's process ends with `close`, with the predictor, or with
    this process, however that ends.

    Args:
        network: gives HoverMaps and has a `geometry`; it is left as it is.
        engine: `openvino` or `onnxruntime`.
        precision: number format of the computation; float32 where the CPU is not made for it.
        cache_dir: folder of exported networks, which processes may share; made where it is not there.
        monitor: gets the seconds of the network, copying to and from its process included.

    Raises:
        ValueError: where the engine is not known or not installed.
        RuntimeError: where it cannot load the network.
    """

    def __init__(
        self,
        network: Network,
        engine: str,
        precision: torch.dtype,
        cache_dir: Path,
        *,
        monitor: Monitor | None = None,
    ) -> None:
        if engine not in EXTRAS:
            raise ValueError(f"predictor={engine} is not known; use one of: {', '.join(EXTRAS)}")
        check_installed(engine, f"predictor={engine}")
        self.engine = engine
        self.monitor = monitor or Monitor()
        self.geometry: Geometry = network.geometry
        self.num_types: int | None = network.num_types
        self.facts: ModelFacts = network.facts
        self.device = torch.device("cpu")
        model_path = export_once(network, cache_dir)
        self._process = EngineProcess(
            engine, model_path, num_threads=usable_cpus(), precision=PRECISIONS[precision]
        )

    def predict(self, tiles: Tiles) -> ProbabilityMaps:
        """Return the maps of (N, H, W, 3) uint8 RGB tiles, each side less by the geometry's margin.

        Raises:
            MemoryError: where the engine has not enough.
            RuntimeError: where the engine fails, or its process ended; the next call starts another.
        """
        num_tiles, *sides = tiles.shape[:3]
        height, width = (self.geometry.output_size(side) for side in sides)
        channels = [(), (2,)] if self.num_types is None else [(), (2,), (self.num_types,)]
        shapes = [(num_tiles, *count, height, width) for count in channels]
        with self.monitor.stage(NETWORK):
            nuclei, hv, *types = self._process.run(np.asarray(tiles), shapes)
        return ProbabilityMaps(nuclei, hv, types[0] if types else None)

    @property
    def pid(self) -> int:
        """The id of the engine's process; another one after it had to start again."""
        return self._process.pid

    def close(self) -> None:
        """End the engine's process."""
        self._process.close()


def export_once(network: Network, cache_dir: Path) -> Path:
    """Return the ONNX file of a network in the cache, written where it is not there yet.

    Its name is a digest of all that it depends on: weights, arguments, our sources and torch's version. The files
    used last are kept, ``MOST_KEPT`` of them.
    """
    path = cache_dir / f"{_digest(network)}.onnx"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with locking(cache_dir):
        if not path.is_file():
            start = time.perf_counter()
            with replacing(path) as temporary:
                graph.write_onnx(graph.trace(network), network, temporary)
            logger.info("network exported to %s in %.1f s", path, time.perf_counter() - start)
        path.touch()
        newest_first = sorted(cache_dir.glob("*.onnx"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in newest_first[MOST_KEPT:]:
            old.unlink()
    return path


def _digest(network: Network) -> str:
    facts = {
        "weights": digest_weights(network.state_dict()),
        "network": type(network).__name__,
        "arguments": network.arguments,
        "torch": torch.__version__,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for source in (*sorted(NETWORK_SOURCES.glob("*.py")), Path(graph.__file__)):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:DIGEST_LENGTH]
