"""Kumar and CPM17 as HoVer-Net's authors prepared them, written by the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image
from scipy.io import savemat

from tests.annotated import make_annotated
from tests.published.base import Published

KUMAR = {
    "train": {"TCGA-18-5592-01Z-00-DX1": "liver", "TCGA-A7-A13E-01Z-00-DX1": "breast"},
    "test_same": {"TCGA-B0-5698-01Z-00-DX1": "kidney"},
    "test_diff": {"TCGA-KB-A93J-01A-01-TS1": "stomach"},
}
CPM17 = {"train": {"image_00": "", "image_01": ""}, "test": {"image_00": ""}}


def publish_kumar(root: Path) -> Published:
    """Write the three splits."""
    return _publish(root, KUMAR, ".tif")


def publish_cpm17(root: Path) -> Published:
    """Write both splits."""
    return _publish(root, CPM17, ".png")


def _publish(root: Path, splits: dict[str, dict[str, str]], suffix: str) -> Published:
    images = {}
    for split, tissues in splits.items():
        images[split] = [
            replace(make_annotated(name, seed=seed), type_map=None, tissue=tissue)
            for seed, (name, tissue) in enumerate(tissues.items())
        ]
        for folder in ("Images", "Labels"):
            (root / split / folder).mkdir(parents=True)
        for item in images[split]:
            Image.fromarray(item.image).save(root / split / "Images" / f"{item.name}{suffix}")
            labels = {"inst_map": item.label_map.astype(float)}  # MATLAB's own type
            savemat(root / split / "Labels" / f"{item.name}.mat", labels, do_compression=True)
    split, first = next((split, items[0].name) for split, items in images.items())
    files = (root / split / "Images" / f"{first}{suffix}", root / split / "Labels" / f"{first}.mat")
    return Published(images, files=files)
