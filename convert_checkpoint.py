"""Bring a checkpoint to another format: `python convert_checkpoint.py input=FILE output=FILE.pt|.safetensors|.tar`."""

from __future__ import annotations

from config.schema import ConvertSettings
from run_utils.entry import run_command


def main(settings: ConvertSettings) -> int:
    """Write the checkpoint, and report what found its place and the digest of the weights."""
    from run_utils.conversion import convert  # late: --help answers without torch

    return convert(settings)


if __name__ == "__main__":
    run_command("convert", main)
