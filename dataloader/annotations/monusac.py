"""MoNuSAC (Verma et al. 2021): small images of 71 patients at 40x, four types, outlines in Aperio's XML.

A patient has a folder with ``TCGA-…_1.svs``, the same picture as ``TCGA-…_1.tif``, and ``TCGA-…_1.xml``; the folders
lie in ``MoNuSAC_images_and_annotations`` (46 patients, training) and in ``MoNuSAC Testing Data and Annotations`` (25).
In the XML each type is an ``Annotation`` whose first attribute names it. Regions named ``Ambiguous`` (faint nuclei,
in the test images alone; the challenge leaves them out of its score) are not nuclei here but background.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataloader.annotations.aperio_xml import Region, read_aperio_xml
from dataloader.annotations.base import AnnotatedImage, read_rgb, renumber
from dataloader.annotations.pairs import ALL, Pair, PairIndex, find_files
from dataloader.annotations.polygons import draw_polygons
from dataloader.slides import SlideError, open_slide

CLASS_NAMES = ("background", "epithelial", "lymphocyte", "macrophage", "neutrophil")
AMBIGUOUS = "ambiguous"


class MonusacAdapter:
    """The unpacked archives of MoNuSAC.

    A patient is of split ``Test`` where the path of the folder under ``root`` says test, whatever the case; else of
    ``Train``; and of ``All`` where ``root`` holds the patients themselves.

    Args:
        root: folder that holds the unpacked archives, or one of them.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
    """

    name = "monusac"
    class_names: tuple[str, ...] = CLASS_NAMES
    mpp = 0.25

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        self._files = PairIndex(
            root, "a folder a patient, with .svs or .tif images beside .xml", _find_pairs(root)
        )

    def list_splits(self) -> list[str]:
        """Return the splits that have images, ``Train`` first."""
        return sorted(self._files.list_splits(), key=lambda split: split == "Test")

    def list_names(self, split: str) -> list[str]:
        """Return the names of a split's images; raises as ``PairIndex.list_names``."""
        return self._files.list_names(split)

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image, its nuclei and their types.

        Raises:
            FileNotFoundError: where the image or its annotations are missing.
            ValueError: for a file that is truncated or malformed, or a type that MoNuSAC does not have.
        """
        pair = self._files.find(split, name)
        image = _read_image(pair.image)
        typed = [(region, _find_type(pair.labels, region)) for region in read_aperio_xml(pair.labels)]
        typed = [(region, type_id) for region, type_id in typed if type_id]
        label_map = draw_polygons(
            [[[region.ring]] for region, _ in typed],
            image.shape[:2],
            names=[f"{region.type_name} {region.name}" for region, _ in typed],
            source=str(pair.labels),
        )
        types = np.array([0, *(type_id for _, type_id in typed)], np.uint8)
        return AnnotatedImage(name, image, renumber(label_map), types[label_map])


def _find_pairs(root: Path) -> Iterator[tuple[str, Pair]]:
    for folder in sorted(path for path in root.rglob("*") if path.is_dir()):
        images = {path.stem: path for path in find_files(folder, ".svs")}
        images |= {path.stem: path for path in find_files(folder, ".tif")}  # the same picture, uncompressed
        parents = folder.relative_to(root).parts[:-1]
        split = ALL if not parents else "Test" if "test" in "/".join(parents).lower() else "Train"
        for image in images.values():
            yield split, Pair(image, image.with_suffix(".xml"))


def _read_image(path: Path) -> np.ndarray:
    if path.suffix.lower() != ".svs":
        return read_rgb(path)
    try:
        slide = open_slide(path)
        height, width = slide.shape_level0
        return slide.read((0, 0, height, width))
    except SlideError as error:
        raise ValueError(f"{path}: not a whole image ({error}); fetch the file again") from error


def _find_type(path: Path, region: Region) -> int:
    """Return the type of a region, 0 where it is ambiguous."""
    type_name = region.type_name.lower()
    if type_name == AMBIGUOUS:
        return 0
    if type_name not in CLASS_NAMES[1:]:
        raise ValueError(
            f"{path}: {region.name} is of type {region.type_name!r}, which MoNuSAC does not have; name its "
            f"annotation one of: {', '.join(CLASS_NAMES[1:])}, {AMBIGUOUS}"
        )
    return CLASS_NAMES.index(type_name)
