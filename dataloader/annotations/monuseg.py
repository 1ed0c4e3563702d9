"""MoNuSeg (Kumar et al. 2020): TCGA images of 1000 x 1000 px at 40x, outlines in Aperio's XML, no types.

The archives unpack to ``MoNuSeg 2018 Training Data/{Tissue Images/*.tif, Annotations/*.xml}`` and to
``MoNuSegTestData/`` with images and XML side by side. Kumar et al. 2017 published its 30 images, the training images
of 2018, in the first layout. The outlines of neighbours overlap; the later one gets the pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dataloader.annotations.aperio_xml import read_aperio_xml
from dataloader.annotations.base import AnnotatedImage, read_rgb, renumber
from dataloader.annotations.pairs import ALL, Pair, PairIndex, find_files
from dataloader.annotations.polygons import draw_polygons
from dataloader.annotations.tcga_organs import find_organ

IMAGES, ANNOTATIONS = "Tissue Images", "Annotations"


class MonusegAdapter:
    """The unpacked archives of MoNuSeg.

    A folder is of split ``Train`` or ``Test`` where its path under ``root`` says train or test, whatever the case;
    else of ``All``.

    Args:
        root: folder that holds the unpacked archives, or one of them.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
    """

    name = "monuseg"
    class_names: tuple[str, ...] = ()
    mpp = 0.25

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        self._files = PairIndex(
            root, f"'{IMAGES}' beside '{ANNOTATIONS}', or .tif beside .xml", _find_pairs(root)
        )

    def list_splits(self) -> list[str]:
        """Return the splits that have images, ``Train`` first."""
        return sorted(self._files.list_splits(), key=lambda split: split == "Test")

    def list_names(self, split: str) -> list[str]:
        """Return the names of a split's images; raises as ``PairIndex.list_names``."""
        return self._files.list_names(split)

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image and its nuclei.

        Raises:
            FileNotFoundError: where the image or its annotations are missing.
            ValueError: for a file that is truncated or malformed.
        """
        pair = self._files.find(split, name)
        image = read_rgb(pair.image)
        regions = read_aperio_xml(pair.labels)
        label_map = draw_polygons(
            [[[region.ring]] for region in regions],
            image.shape[:2],
            names=[region.name for region in regions],
            source=str(pair.labels),
        )
        return AnnotatedImage(name, image, renumber(label_map), tissue=find_organ(name))


def _find_pairs(root: Path) -> Iterator[tuple[str, Pair]]:
    for folder in sorted({root, *(path for path in root.rglob("*") if path.is_dir())}):
        is_flat = folder.name not in (IMAGES, ANNOTATIONS) and find_files(folder, ".xml")
        if folder.name != IMAGES and not is_flat:
            continue
        where = str(folder.relative_to(root)).lower()
        split = "Train" if "train" in where else "Test" if "test" in where else ALL
        labels = folder if is_flat else folder.parent / ANNOTATIONS
        for image in find_files(folder, ".tif"):
            yield split, Pair(image, labels / f"{image.stem}.xml")
