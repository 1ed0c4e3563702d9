"""A Predictor whose network runs behind a Triton server."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from config.schema import InferSettings
from config.triton import TritonSettings
from models.hovernet.checkpoint import Network
from models.hovernet.facts import ModelFacts
from models.hovernet.geometry import Geometry
from run_utils.inference.engines.graph import output_names
from run_utils.inference.monitor import NETWORK, Monitor
from run_utils.inference.predictors import Predictor, ProbabilityMaps, Tiles
from run_utils.inference.triton_client import TritonClient
from run_utils.inference.triton_repository import ServedModel


class TritonPredictor:
    """Sends tiles to a Triton server that runs the very network at hand, and takes its maps.

    A request that a server leaves unanswered, because it is busy, killed or restarted, is sent again; each answer
    is used once, so that nothing is lost or done twice.

    Args:
        network: whose weights the server is to run; it is not used otherwise, but for its facts.
        settings: which server.
        monitor: gets the seconds of the network, its way there and back included.

    Raises:
        ConnectionError: the server does not answer.
        ValueError: it runs another network, or settings do not name one.
    """

    def __init__(self, network: Network, settings: TritonSettings, *, monitor: Monitor | None = None) -> None:
        self.geometry: Geometry = network.geometry
        self.num_types: int | None = network.num_types
        self.facts: ModelFacts = network.facts
        self.device = torch.device("cpu")
        self.monitor = monitor or Monitor()
        self._names = output_names(network)
        self._client = TritonClient(settings)
        self.served = ServedModel.of_config(self._client.config())
        if difference := self.served.differs_from(network):
            raise ValueError(
                f"model {settings.model!r} of the Triton server at {self._client.address} is not checkpoint=: it has "
                f"{difference}; give the checkpoint that it was made of, or export this one with to=triton"
            )

    def check(self, settings: InferSettings) -> None:
        """Raise ValueError where a run wants what this server does not give."""
        window = self.geometry.published if settings.published_windows else settings.window
        if self.served.is_fixed and window not in (0, self.served.window):
            raise ValueError(
                f"window={window} does not suit the Triton server at {self._client.address}, which takes windows of "
                f"{self.served.window} px alone; leave window= out, or export with triton.fixed=false"
            )
        if settings.batch_size > self.served.largest_batch:
            raise ValueError(
                f"batch_size={settings.batch_size} is more than the Triton server at {self._client.address} takes, "
                f"{self.served.largest_batch}; leave it out: the server puts batches together"
            )
        if settings.tta != "none" and self.served.is_small:
            raise ValueError(
                f"tta={settings.tta} averages views in full, and the Triton server gives small maps; export with "
                "triton.maps=full, or set tta=none"
            )

    def predict(self, tiles: Tiles) -> ProbabilityMaps:
        """Return the maps of (N, H, W, 3) uint8 RGB tiles, each side less by the geometry's margin.

        Raises:
            CancelledError: it was given up.
            ConnectionError: the server does not answer, for longer than patience lasts.
            ValueError: the server runs another network than at the start.
            RuntimeError: it failed, or gave what are no maps of these tiles.
        """
        num_tiles, *sides = tiles.shape[:3]
        shape = (num_tiles, *(self.geometry.output_size(side) for side in sides))
        with self.monitor.stage(NETWORK):
            nuclei, hv, *types = self._client.infer(
                np.ascontiguousarray(tiles), self._names, self.served.version
            )
        if nuclei.shape != shape:
            raise RuntimeError(
                f"the Triton server at {self._client.address} gave maps of {nuclei.shape}, not {shape}"
            )
        return ProbabilityMaps(nuclei, hv, types[0] if types else None)

    def give_up(self) -> None:
        """End the waiting for all maps, which nobody wants any longer."""
        self._client.give_up()


def find_server(predictor: Predictor) -> TritonPredictor | None:
    """Return what asks a server within a predictor, whatever is wrapped around it; None where nothing does."""
    inner: Any = predictor
    while not isinstance(inner, TritonPredictor) and hasattr(inner, "predictor"):
        inner = inner.predictor
    return inner if isinstance(inner, TritonPredictor) else None
