"""TNBC as it was published, written by the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.annotated import make_annotated
from tests.published.base import Published


def publish_tnbc(root: Path) -> Published:
    """Write two patients."""
    images = [
        replace(make_annotated(name, seed=seed), type_map=None)
        for seed, name in enumerate(("01_1", "01_2", "01_10", "11_1"))
    ]
    for item in images:
        patient = item.name.split("_")[0]
        for folder, pixels in (("Slide", item.image), ("GT", 255 * (item.label_map > 0).astype(np.uint8))):
            (root / f"{folder}_{patient}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / f"{folder}_{patient}" / f"{item.name}.png")
    return Published({"All": images}, files=(root / "Slide_01" / "01_2.png", root / "GT_01" / "01_2.png"))
