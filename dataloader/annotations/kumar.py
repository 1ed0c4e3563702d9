"""Kumar (Kumar et al. 2017) and CPM17 (Vu et al. 2019), as Graham et al. 2019 prepared them for HoVer-Net.

Each split is a folder: ``{split}/Images/*.{tif,png}`` beside ``{split}/Labels/*.mat`` with ``inst_map``. Kumar has
``train`` (16 images), ``test_same`` (8, of the four organs of training) and ``test_diff`` (6, of three others);
CPM17 ``train`` and ``test`` (32 each). Neither has types. Kumar as its authors published it, with XML, has
MoNuSeg's layout and is read by that adapter.
"""

from __future__ import annotations

from pathlib import Path

from dataloader.annotations.base import AnnotatedImage, read_rgb, renumber
from dataloader.annotations.maps import check_map, load_mat
from dataloader.annotations.pairs import Pair, PairIndex, find_files
from dataloader.annotations.tcga_organs import find_organ


class InstMapAdapter:
    """Splits of images beside `.mat` files with an ``inst_map``.

    Args:
        root: folder that holds the splits.
        name: key of the adapter.
        suffixes: of the images.

    Raises:
        FileNotFoundError: where ``root`` is not a folder.
    """

    class_names: tuple[str, ...] = ()
    mpp = 0.25

    def __init__(self, root: str | Path, *, name: str, suffixes: tuple[str, ...]) -> None:
        root = Path(root)
        self.name = name
        pairs = (
            (folder.parent.name, Pair(image, folder.parent / "Labels" / f"{image.stem}.mat"))
            for folder in root.glob("*/Images")
            for image in find_files(folder, *suffixes)
        )
        self._files = PairIndex(root, "a folder with Images and Labels for each split", pairs)

    def list_splits(self) -> list[str]:
        """Return the splits that have images, those for training first."""
        return sorted(self._files.list_splits(), key=lambda split: split.startswith("test"))

    def list_names(self, split: str) -> list[str]:
        """Return the names of a split's images; raises as ``PairIndex.list_names``."""
        return self._files.list_names(split)

    def read(self, split: str, name: str) -> AnnotatedImage:
        """Read one image and its nuclei; the tissue is that of Kumar's table where it is known.

        Raises:
            FileNotFoundError: where the image or its labels are missing.
            ValueError: for a file that is truncated, malformed, or does not fit the other.
        """
        pair = self._files.find(split, name)
        image = read_rgb(pair.image)
        inst_map = load_mat(pair.labels, ("inst_map",))["inst_map"]
        label_map = check_map(f"{pair.labels}: inst_map", inst_map, image.shape[:2])
        return AnnotatedImage(name, image, renumber(label_map), tissue=find_organ(name))


def open_kumar(root: str | Path) -> InstMapAdapter:
    """Open Kumar: 1000 x 1000 px at 40x; raises as ``InstMapAdapter``."""
    return InstMapAdapter(root, name="kumar", suffixes=(".tif", ".png"))


def open_cpm17(root: str | Path) -> InstMapAdapter:
    """Open CPM17: 500 x 500 to 600 x 600 px; a part was scanned at 20x, and all is read as 40x, as HoVer-Net does.

    Raises as ``InstMapAdapter``.
    """
    return InstMapAdapter(root, name="cpm17", suffixes=(".png",))
