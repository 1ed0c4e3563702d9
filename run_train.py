"""Train a network on patch stores: `python run_train.py experiment=consep_lite`."""

from __future__ import annotations

from config.schema import TrainingRun
from run_utils.entry import run_command


def main(settings: TrainingRun) -> int | None:
    """Train, or write a contact sheet of what would be trained on."""
    from run_utils.build import train_from_settings

    return train_from_settings(settings)


if __name__ == "__main__":
    run_command("train", main)
