"""CoNIC's layout, written by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.annotated import make_annotated
from tests.published.base import Published

COUNTS_HEADER = "neutrophil,epithelial,lymphocyte,plasma,eosinophil,connective"


def publish_conic(root: Path) -> Published:
    """Write twelve patches of two images, with both tables."""
    root.mkdir(parents=True)
    names = [f"consep_1-{index:04d}" for index in range(10)] + ["glas_10-0000", "glas_10-0001"]
    images = [make_annotated(name, (48, 48), seed=i, num_types=7) for i, name in enumerate(names)]
    np.save(root / "images.npy", np.stack([item.image for item in images]))
    labels = [np.stack([item.label_map, item.type_map], axis=-1) for item in images]
    np.save(root / "labels.npy", np.stack(labels).astype(np.uint16))
    (root / "counts.csv").write_text("\n".join([COUNTS_HEADER, *["0,5,1,0,0,2"] * len(names)]) + "\n")
    (root / "patch_info.csv").write_text("\n".join(["patch_info", *names]) + "\n")
    files = tuple(root / name for name in ("images.npy", "labels.npy", "counts.csv", "patch_info.csv"))
    return Published({"All": images}, files=files)
