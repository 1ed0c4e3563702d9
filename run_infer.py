"""Find nuclei in images: `python run_infer.py input=FILE|DIR output=DIR`."""

from __future__ import annotations

from config.schema import InferSettings
from run_utils.entry import run_command


def main(settings: InferSettings) -> int:
    """Write the chosen outputs of every image; 1 where an image failed."""
    from run_utils.inference.batch_run import infer_all  # late: --help answers without torch

    return infer_all(settings)


if __name__ == "__main__":
    run_command("infer", main)
