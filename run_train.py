"""Train a network on patch stores: `python run_train.py experiment=consep_lite`."""

from __future__ import annotations

from config.schema import TrainingRun
from run_utils.entry import run_command


def main(settings: TrainingRun) -> None:
    """Train, or write a contact sheet of what would be trained on."""
    from run_utils.training.run import train  # late: --help answers without torch

    train(settings)


if __name__ == "__main__":
    run_command("train", main)
