"""The predictors that run a network with torch: as it is, compiled, or as CUDA graphs."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from models.hovernet.checkpoint import Network
from models.hovernet.facts import ModelFacts
from models.hovernet.geometry import Geometry
from models.hovernet.probabilities import ProbabilityNetwork
from run_utils.inference.gpu_threads import GPU_THREADS, own_stream, threads_of
from run_utils.inference.monitor import COPY, NETWORK, Monitor
from run_utils.inference.predictors import Maps, ProbabilityMaps, Tiles

logger = logging.getLogger(__name__)

Run = Callable[[Tensor], tuple[Tensor, ...]]
Span = tuple[str, torch.cuda.Event, torch.cuda.Event]
Graph = tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, ...]]
MOST_GRAPHS = 6  # each keeps its features: on two streams, batches of three sizes of windows
GRAPH_WARM_UP = 3  # runs before a graph is captured, in which libraries choose their kernels


class TorchPredictor:
    """Runs a network with torch.

    Args:
        network: gives HoverMaps and has a `geometry`; moved to the device and put into eval mode.
        device: where it runs.
        dtype: number format of the computation; weights stay as they are.
        is_small: give uint8 probabilities and float16 HV maps instead of float32.
        stays: leave the maps on the device, as tensors.
        wrap: makes what runs of the network, such as a compiled one; None runs it as it is.
        monitor: gets the seconds of copying and of the network.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device,
        dtype: torch.dtype,
        *,
        is_small: bool = False,
        stays: bool = False,
        wrap: Callable[[nn.Module], Run] | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self.network = network.to(device).eval()
        self.geometry: Geometry = network.geometry
        self.num_types: int | None = network.num_types
        self.facts: ModelFacts = network.facts
        self.device = device
        self.dtype = dtype
        self.stays = stays
        self.largest_batch = sys.maxsize
        self._turns = Turns(GPU_THREADS if device.type == "cuda" else 1)  # a CPU is filled by one
        self.monitor = monitor or Monitor()
        whole = ProbabilityNetwork(self.network, is_small=is_small)
        self._run: Run = whole if wrap is None else wrap(whole)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # weights that are on their way

    def predict(self, tiles: Tiles) -> ProbabilityMaps:
        """Return the maps of (N, H, W, 3) uint8 RGB tiles, each side less by the geometry's margin.

        Where the device's memory is short, the batch is halved until it fits, and stays so.

        Raises:
            MemoryError: where not even one tile fits.
        """
        parts: list[ProbabilityMaps] = []
        done = 0
        while done < len(tiles):
            batch = tiles[done : done + self.largest_batch]
            with self._turns.take() as is_alone:
                maps = self._try(batch)
            if maps is not None:
                parts.append(maps)
                done += len(batch)
            else:
                self._make_room(batch, is_alone)
        return parts[0] if len(parts) == 1 else _join(parts)

    def _try(self, batch: Tiles) -> ProbabilityMaps | None:
        """Return a batch's maps, or None where memory was short; what was computed till then is free again."""
        try:
            return self._predict(batch)
        except torch.OutOfMemoryError:
            return None

    def _make_room(self, batch: Tiles, is_alone: bool) -> None:
        """See to it that a batch that did not fit does so next time: alone, or else by halves."""
        num_tiles, height, width = batch.shape[:3]
        if is_alone and num_tiles == 1:
            raise MemoryError(
                f"a window of {height}x{width} px does not fit into the memory of {self.device}; "
                "set window= to a smaller size"
            )
        if is_alone:
            self.largest_batch = min(self.largest_batch, num_tiles // 2)
        self._turns.one_by_one()
        logger.warning(
            "out of memory on %s: goes on with one batch at a time, of at most %d windows",
            self.device, min(self.largest_batch, num_tiles),
        )  # fmt: skip
        if isinstance(self._run, CudaGraphs):
            self._run.forget()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _predict(self, tiles: Tiles) -> ProbabilityMaps:
        if self.device.type == "cuda":
            given = torch.cuda.current_stream(self.device)
            return _named(threads_of(self.device).submit(self._predict_on_gpu, tiles, given).result())
        with self._computing(), self.monitor.stage(NETWORK):
            return _named([maps.numpy() for maps in self._run(torch.as_tensor(tiles))])

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            yield

    def _predict_on_gpu(self, tiles: Tiles, given: torch.cuda.Stream) -> Sequence[Maps]:
        """Work on this thread's own stream, so that its copies go on beside another's network."""
        stream = own_stream()
        spans: list[Span] = []
        with self._computing(), torch.cuda.stream(stream):
            if isinstance(tiles, Tensor):
                stream.wait_stream(given)  # which may still be making them
            with _timed(COPY, spans):
                images = self._upload(tiles)
            with _timed(NETWORK, spans):
                maps = self._run(images)
            if self.stays:
                kept = [part.clone() if self._is_reused else part for part in maps]
                for part in kept:
                    part.record_stream(given)
            else:
                with _timed(COPY, spans):
                    kept = [_download(part) for part in maps]
            stream.synchronize()
        for name, begun, ended in spans:
            self.monitor.add(name, begun.elapsed_time(ended) / 1000)
        return kept if self.stays else [part.numpy() for part in kept]

    @property
    def _is_reused(self) -> bool:
        """Whether the next run writes its maps into the memory of these."""
        return isinstance(self._run, CudaGraphs)

    def _upload(self, tiles: Tiles) -> Tensor:
        if isinstance(tiles, Tensor):
            return tiles.to(self.device, non_blocking=True)
        return torch.from_numpy(np.ascontiguousarray(tiles)).pin_memory().to(self.device, non_blocking=True)


@contextmanager
def _timed(name: str, spans: list[Span]) -> Iterator[None]:
    """Measure the block on the GPU's own time line."""
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with record_function(name):
        begun.record()
        yield
        ended.record()
    spans.append((name, begun, ended))


class Turns:
    """Lets some threads work side by side until memory is short, and one at a time from then on.

    Args:
        most: threads at once.
    """

    def __init__(self, most: int) -> None:
        self._changed = threading.Condition()
        self._num_working = 0
        self._most = most

    @contextmanager
    def take(self) -> Iterator[bool]:
        """Wait for a turn; give whether nobody else works meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_working < self._most)
            self._num_working += 1
            is_alone = self._most == 1
        try:
            yield is_alone
        finally:
            with self._changed:
                self._num_working -= 1
                self._changed.notify_all()

    def one_by_one(self) -> None:
        """Let no two threads work at once any more."""
        with self._changed:
            self._most = 1


def _download(maps: Tensor) -> Tensor:
    """Return a copy in pinned memory, complete once the stream is."""
    return torch.empty(maps.shape, dtype=maps.dtype, pin_memory=True).copy_(maps, non_blocking=True)


def _named(maps: Sequence[Maps]) -> ProbabilityMaps:
    nuclei, hv, *types = maps
    return ProbabilityMaps(nuclei, hv, types[0] if types else None)


def _join(parts: Sequence[ProbabilityMaps]) -> ProbabilityMaps:
    columns = [[part for part in column if part is not None] for column in zip(*parts, strict=True)]
    return _named([_concatenate(column) for column in columns if column])


def _concatenate(parts: Sequence[Maps]) -> Maps:
    if isinstance(parts[0], Tensor):
        return torch.cat([torch.as_tensor(part) for part in parts])
    return np.concatenate([np.asarray(part) for part in parts])


class CudaGraphs:
    """Replays a network's kernels as one graph for each size of batch and window, captured when it is first met.

    What a replay gives lies where the next one on the same stream will write. Streams have graphs of their own.

    Args:
        network: maps a tensor to a tuple of tensors, on a GPU.
    """

    _capturing = threading.Lock()  # one at a time in the process, whatever the GPU

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def __call__(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Return the network's maps of tiles on the GPU, on the current stream."""
        key = (torch.cuda.current_stream(tiles.device).cuda_stream, *tiles.shape)
        with self._capturing:
            if len(self._graphs) >= MOST_GRAPHS and key not in self._graphs:
                del self._graphs[next(iter(self._graphs))]  # the one that was used longest ago
            found = self._graphs.pop(key) if key in self._graphs else self._capture(tiles)
            self._graphs[key] = found
        graph, given, maps = found
        given.copy_(tiles)
        graph.replay()
        return maps

    def forget(self) -> None:
        """Give back the memory of all graphs; they are captured again when they are needed."""
        with self._capturing:
            self._graphs.clear()

    def _capture(self, tiles: Tensor) -> Graph:
        given = tiles.clone()
        for _ in range(GRAPH_WARM_UP):
            self.network(given)
        stream = torch.cuda.current_stream(tiles.device)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            maps = self.network(given)
        return graph, given, maps
