"""CoNSeP's layout, written by the tests."""

from __future__ import annotations

from pathlib import Path

from tests.annotated import make_annotated, write_consep
from tests.published.base import Published


def publish_consep(root: Path) -> Published:
    """Write two splits of CoNSeP."""
    images = {
        split: [make_annotated(f"{split.lower()}_{number}", seed=number) for number in numbers]
        for split, numbers in (("Train", (1, 2, 10)), ("Test", (3,)))
    }
    for split, annotated in images.items():
        write_consep(root, split, annotated)
    files = (root / "Train" / "Images" / "train_2.png", root / "Train" / "Labels" / "train_2.mat")
    return Published(images, {"types": "merged"}, files)
