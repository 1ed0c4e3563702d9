"""MoNuSeg as it was published, written by the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from tests.annotated import make_annotated
from tests.published.aperio import outline_rectangles, write_aperio_xml
from tests.published.base import Published

TRAIN = {"TCGA-18-5592-01Z-00-DX1": "liver", "TCGA-A7-A13E-01Z-00-DX1": "breast"}
TEST = {"TCGA-FG-A4MU-01B-01-TS1": "brain", "TCGA-XX-0000-01Z-00-DX1": ""}


def publish_monuseg(root: Path) -> Published:
    """Write both archives: the one for training in two folders, that for testing in one."""
    train, test = root / "MoNuSeg 2018 Training Data", root / "MoNuSegTestData"
    folders = {"Train": (train / "Tissue Images", train / "Annotations"), "Test": (test, test)}
    images = {}
    for split, tissues in (("Train", TRAIN), ("Test", TEST)):
        images[split] = [
            replace(make_annotated(name, seed=seed), type_map=None, tissue=tissue)
            for seed, (name, tissue) in enumerate(tissues.items())
        ]
        for folder in folders[split]:
            folder.mkdir(parents=True, exist_ok=True)
        for item in images[split]:
            Image.fromarray(item.image).save(folders[split][0] / f"{item.name}.tif")
            rings = {"Description": list(outline_rectangles(item.label_map).values())}
            write_aperio_xml(folders[split][1] / f"{item.name}.xml", rings)
    first = next(iter(TRAIN))
    files = (folders["Train"][0] / f"{first}.tif", folders["Train"][1] / f"{first}.xml")
    return Published(images, files=files)
