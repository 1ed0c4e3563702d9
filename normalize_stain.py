"""Bring images and slides to one stain: `python normalize_stain.py input=FILE|DIR output=DIR [method=macenko]`."""

from __future__ import annotations

from config.schema import NormalizeSettings
from run_utils.entry import run_command


def main(settings: NormalizeSettings) -> int:
    """Write every image normalised, and before and after side by side; 1 where an image failed."""
    from run_utils.normalisation import normalize_all  # late: --help answers without torch

    return normalize_all(settings)


if __name__ == "__main__":
    run_command("normalize", main)
