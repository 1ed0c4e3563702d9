"""NuInsSeg as it was published, written by the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests.annotated import make_annotated
from tests.published.base import Published

NUMBERS = {"human bladder": (1, 2), "mouse liver": (1,)}


def publish_nuinsseg(root: Path) -> Published:
    """Write two organs."""
    images = []
    for tissue, numbers in NUMBERS.items():
        for folder in ("tissue images", "label masks", "label masks modify", "mask binary"):
            (root / tissue / folder).mkdir(parents=True)
        for number in numbers:
            name = f"{tissue.replace(' ', '_')}_{number:02d}"
            item = replace(make_annotated(name, seed=number), type_map=None, tissue=tissue)
            Image.fromarray(item.image).save(root / tissue / "tissue images" / f"{name}.png")
            modified = root / tissue / "label masks modify" / f"{name}.tif"
            tifffile.imwrite(modified, item.label_map.astype(np.uint16))
            tifffile.imwrite(root / tissue / "label masks" / f"{name}.tif", np.ones((40, 50), np.uint16))
            images.append(item)
    folder = root / "human bladder"
    stem = "human_bladder_01"
    files = (folder / "tissue images" / f"{stem}.png", folder / "label masks modify" / f"{stem}.tif")
    return Published({"All": images}, files=files)
