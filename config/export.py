"""Settings of the command that writes a network for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from config.checks import MISSING, check_choice

FORMATS = (".onnx", ".xml", ".ts")


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
        overwrite: replace the output where it exists.
    """

    checkpoint: str = MISSING
    output: str = MISSING
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        if self.output != MISSING:
            check_choice("output's ending", PurePath(self.output).suffix, FORMATS)
