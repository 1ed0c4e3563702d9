"""Find the decode settings of a checkpoint: `python tune.py checkpoint=FILE patches=STORE.zarr`."""

from __future__ import annotations

import sys

from config.schema import TuneSettings
from run_utils.entry import run_command


def main(settings: TuneSettings) -> None:
    """Search, write what was found into the checkpoint, and print a table."""
    from run_utils.tuning import tune  # late: --help answers without torch

    sys.stdout.write(f"{tune(settings)}\n")


if __name__ == "__main__":
    run_command("tune", main)
