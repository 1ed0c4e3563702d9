"""Settings of the command that writes a network for other programs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath

from config.checks import MISSING, check_choice, check_not_negative, check_positive

FORMATS = (".onnx", ".xml", ".ts")
MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]+")
DEFAULT_BATCH = {"gpu": 4, "cpu": 1}


@dataclass
class TritonExportSettings:
    """How a Triton server is to run the network.

    Attributes:
        model: its name on the server, and of its folder.
        backend: of the server: `onnxruntime`, which NVIDIA's container has, or `python` for a server without it: a
            `model.py` is written too, which needs onnxruntime and numpy in the server's own Python.
        device: `gpu` or `cpu`.
        instances: of the network, on each GPU; one copies while the other computes.
        largest_batch: windows that the server puts together, at most; 0 takes 4 on a GPU, 1 on a CPU, which gains
            nothing by more.
        preferred_batches: numbers of windows for which it waits; empty waits for the largest batch.
        delay_ms: milliseconds for which it waits for them.
        queue: batches that may wait; who asks for more is told to come again; 0 for no limit.
        threads: of each instance on a CPU; 0 shares out all CPUs.
        window: side in pixels of the windows that those who ask are told to send.
        fixed: take windows of exactly that size, and no others.
        maps: what goes over the network: `full` (float32) or `small` (probabilities as uint8, HV maps as float16: a
            third of the bytes); `auto` is small on a GPU.
    """

    model: str = "hovernet"
    backend: str = "onnxruntime"
    device: str = "gpu"
    instances: int = 1
    largest_batch: int = 0
    preferred_batches: list[int] = field(default_factory=list)
    delay_ms: float = 5.0
    queue: int = 64
    threads: int = 0
    window: int = 1024
    fixed: bool = False
    maps: str = "auto"

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("triton.backend", self.backend, ("onnxruntime", "python"))
        check_choice("triton.device", self.device, ("gpu", "cpu"))
        check_choice("triton.maps", self.maps, ("auto", "full", "small"))
        check_positive(instances=self.instances, window=self.window)
        if not MODEL_NAME.fullmatch(self.model) or self.model.startswith("."):
            raise ValueError(
                f"triton.model={self.model!r} names a folder: give letters, digits, '_', '-' or '.' alone"
            )
        check_not_negative(
            "triton",
            largest_batch=self.largest_batch,
            delay_ms=self.delay_ms,
            queue=self.queue,
            threads=self.threads,
        )
        if any(not 1 <= size <= self.batch for size in self.preferred_batches):
            raise ValueError(
                f"triton.preferred_batches={self.preferred_batches} must lie in 1..{self.batch}; "
                "set triton.largest_batch= to more"
            )

    @property
    def batch(self) -> int:
        """The largest batch, chosen by device where the settings leave it open."""
        return self.largest_batch or DEFAULT_BATCH[self.device]

    @property
    def is_small(self) -> bool:
        """Whether maps are small."""
        return self.maps == "small" or (self.maps == "auto" and self.device == "gpu")


@dataclass
class ExportSettings:
    """`export_model.py`: a checkpoint to a file that runs without this project, checked against torch.

    It takes `tiles`, (N, H, W, 3) uint8 RGB, and gives `nuclei` (N, h, w), the probability of nucleus, `hv`
    (N, 2, h, w) and, of a network with types, `types` (N, T, h, w), the probability of each. N, H and W are free, as
    far as the network takes that H and W.

    Attributes:
        checkpoint: ours (`.pt`, `.safetensors`), or an official HoVer-Net `.tar` or `.npz`.
        output: the file to write; its ending says the format: `.onnx`, `.xml` for OpenVINO (with the weights in a
            `.bin` beside it) or `.ts` for TorchScript. Types, µm/px, sizes and notes are in it, as JSON named
            `hovernet`.
        to: `triton` writes a model repository for a Triton server into the folder `output`; empty goes by the ending.
        triton: how the server is to run it, where `to=triton`.
        overwrite: replace the output where it exists.
    """

    checkpoint: str = MISSING
    output: str = MISSING
    to: str = ""
    triton: TritonExportSettings = field(default_factory=TritonExportSettings)
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("to", self.to, ("", "triton"))
        if self.output != MISSING and not self.to:
            check_choice("output's ending", PurePath(self.output).suffix, FORMATS)
