"""Lizard's layout, written by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from dataloader.annotations import AnnotatedImage
from tests.annotated import make_annotated
from tests.published.base import Published

FOLDS = {"fold1": ("consep_2", "consep_10"), "fold2": ("dpath_1",), "fold3": ("glas_3",)}


def publish_lizard(root: Path) -> Published:
    """Write three folds; images lie in two folders, as in the archives."""
    images = {
        split: [make_annotated(name, (40 + 8 * i, 50), seed=i, num_types=7) for i, name in enumerate(names)]
        for split, names in FOLDS.items()
    }
    lines = ["Filename,Source,Split"]
    for split, annotated in reversed(images.items()):
        folder = root / ("Lizard_Images1" if split == "fold1" else "lizard_images2/Lizard_Images2")
        for item in annotated:
            write_lizard(folder, root / "Lizard_Labels" / "Labels", item)
            lines.append(f"{item.name},{item.name.split('_')[0]},{split[-1]}")
    (root / "Lizard_Labels" / "info.csv").write_text("\n".join(lines) + "\n")
    files = (root / "Lizard_Images1" / "consep_2.png", root / "Lizard_Labels" / "Labels" / "consep_2.mat")
    return Published(images, files=files)


def write_lizard(images_dir: Path, labels_dir: Path, item: AnnotatedImage) -> None:
    """Write an image and its labels, the table in another order than the ids."""
    for folder in (images_dir, labels_dir):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(item.image).save(images_dir / f"{item.name}.png")
    ids = np.unique(item.label_map)[:0:-1]
    boxes = [
        [y.min(), y.max() + 1, x.min(), x.max() + 1]
        for y, x in (np.nonzero(item.label_map == i) for i in ids)
    ]
    content = {
        "inst_map": item.label_map,
        "id": ids[:, None],
        "class": np.array([[item.type_map[item.label_map == i][0]] for i in ids]),
        "bbox": np.array(boxes),
        "centroid": np.array([[(x0 + x1) / 2, (y0 + y1) / 2] for y0, y1, x0, x1 in boxes]),
    }
    savemat(labels_dir / f"{item.name}.mat", content)
