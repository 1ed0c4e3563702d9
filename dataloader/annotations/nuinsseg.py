"""NuInsSeg (Mahbod et al. 2024): 665 images of 512 x 512 px of 31 human and mouse organs, no types.

An organ has a folder such as ``human bladder`` with ``tissue images/*.png`` and label maps under the same names:
``label masks modify/*.tif``, in which nuclei that touch are apart, and ``label masks/*.tif``; the first is taken where
an organ has both. The vague areas that the authors marked are not left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dataloader.annotations.base import AnnotatedImage, read_rgb, renumber
from dataloader.annotations.maps import check_map, read_label_image
from dataloader.annotations.pairs import ALL, Pair, PairIndex, find_files

IMAGES = "tissue images"
LABEL_FOLDERS = ("label masks modify", "label masks")  # the preferred one first


class NuinssegAdapter:
    """The unpacked archive of NuInsSeg, all images in the split ``All``; the tissue is the organ's folder.

    Args:
        root: folder that holds a folder for each organ.
        mpp: µm/px of the images; 0.25, for a scan at 40x, where it is left out.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
    """

    name = "nuinsseg"
    class_names: tuple[str, ...] = ()

    def __init__(self, root: str | Path, *, mpp: float = 0.25) -> None:
        root = Path(root)
        self.mpp = mpp
        self._files = PairIndex(
            root, f"an organ a folder, with '{IMAGES}' and '{LABEL_FOLDERS[0]}'", _find_pairs(root)
        )

    def list_splits(self) -> list[str]:
        """Return ``All``."""
        return self._files.list_splits()

    def list_names(self, split: str) -> list[str]:
        """Return the names of the images; raises as ``PairIndex.list_names``."""
        return self._files.list_names(split)

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image and its nuclei.

        Raises:
            FileNotFoundError: where the image or its label map is missing.
            ValueError: for a file that is truncated, malformed, or does not fit the other.
        """
        pair = self._files.find(split, name)
        image = read_rgb(pair.image)
        label_map = check_map(str(pair.labels), read_label_image(pair.labels), image.shape[:2])
        return AnnotatedImage(name, image, renumber(label_map), tissue=pair.image.parent.parent.name)


def _find_pairs(root: Path) -> Iterator[tuple[str, Pair]]:
    for folder in sorted(root.glob(f"*/{IMAGES}")):
        maps = [folder.parent / name for name in LABEL_FOLDERS]
        labels = next((path for path in maps if path.is_dir()), maps[0])
        for image in find_files(folder, ".png", ".tif"):
            yield ALL, Pair(image, labels / f"{image.stem}.tif")
