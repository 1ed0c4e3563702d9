"""MoNuSAC as it was published, written by the tests."""

from __future__ import annotations

from pathlib import Path

import tifffile
from PIL import Image

from dataloader.annotations import AnnotatedImage
from tests.annotated import make_annotated
from tests.published.aperio import outline_rectangles, write_aperio_xml
from tests.published.base import Published

FOLDERS = {"Train": "MoNuSAC_images_and_annotations", "Test": "MoNuSAC Testing Data and Annotations"}
NAMES = {  # of images, by patient
    "Train": {"TCGA-5P-A9K0-01Z-00-DX1": (1, 2, 10), "TCGA-55-1594-01Z-00-DX1": (3,)},
    "Test": {"TCGA-2Z-A9JG-01Z-00-DX1": (1,)},
}
TYPE_NAMES = ("Epithelial", "Lymphocyte", "Macrophage", "Neutrophil")
SMALL = (22, 27)  # (H, W); the smallest published ones have 81 x 113 px


def publish_monusac(root: Path) -> Published:
    """Write both archives, the images of several sizes; one image is there as .svs alone."""
    images = {}
    for split, patients in NAMES.items():
        found = {}
        for patient, numbers in patients.items():
            for number in numbers:
                shape = SMALL if number == 2 else (40, 50)
                item = make_annotated(f"{patient}_{number}", shape, seed=number)
                _write(root / FOLDERS[split] / patient, item, has_tif=number != 3)
                found[item.name] = item
        images[split] = list(found.values())
    folder = root / FOLDERS["Train"] / "TCGA-5P-A9K0-01Z-00-DX1"
    svs = root / FOLDERS["Train"] / "TCGA-55-1594-01Z-00-DX1" / "TCGA-55-1594-01Z-00-DX1_3.svs"
    stem = "TCGA-5P-A9K0-01Z-00-DX1_1"
    return Published(images, files=(folder / f"{stem}.tif", folder / f"{stem}.xml", svs))


def _write(folder: Path, item: AnnotatedImage, *, has_tif: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / f"{item.name}.svs", item.image, tile=(16, 16), photometric="rgb")
    if has_tif:
        Image.fromarray(item.image).save(folder / f"{item.name}.tif")
    assert item.type_map is not None
    rings: dict[str, list] = {name: [] for name in TYPE_NAMES}
    for number, ring in outline_rectangles(item.label_map).items():
        type_id = int(item.type_map[item.label_map == number][0])
        rings[TYPE_NAMES[type_id - 1]].append(ring)
    write_aperio_xml(folder / f"{item.name}.xml", rings)
