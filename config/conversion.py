"""Settings of the command that brings checkpoints from one format to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from config.checks import MISSING, check_choice

FORMATS = (".pt", ".safetensors", ".tar")


@dataclass
class ConvertSettings:
    """`convert_checkpoint.py`: checkpoints of other projects to ours, ours to safetensors and the official format.

    Attributes:
        input: ours (`.pt`, `.safetensors`), the official `.tar` or `.npz`, TIAToolbox's `.pth`, or weights of MONAI's
            HoVerNet.
        output: the file to write; its ending says the format: `.pt` and `.safetensors` are ours, `.tar` is the
            official one.
        types: JSON file that names the types, as the reference's type_info.json does: {"1": ["name", [r, g, b]], …};
            empty keeps what the input says, which only ours does.
        mpp: µm/px that the network was trained at; 0 keeps what the input says, of official files 0.25.
        allow_inexact: take weights whose network elsewhere gives other outputs than ours would: MONAI's.
        overwrite: replace the output where it exists.
    """

    input: str = MISSING
    output: str = MISSING
    types: str = ""
    mpp: float = 0.0
    allow_inexact: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        if self.output != MISSING:
            check_choice("output's ending", PurePath(self.output).suffix, FORMATS)
        if self.mpp < 0:
            raise ValueError(f"mpp={self.mpp} must be 0 or more; leave it out to keep what the input says")
        if self.types and self.output.endswith(".tar"):
            raise ValueError(
                f"types={self.types} has no place in output={self.output}: the official format holds weights "
                "alone; write a .pt"
            )
