"""Layouts of users' own data, written by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy.io import savemat

from dataloader.annotations import AnnotatedImage
from tests.annotated import make_annotated
from tests.published.base import Published

CLASS_NAMES = ("background", "tumour", "stroma", "immune", "other")
COLOURS = {"tumour": [255, 255, 0], "stroma": [255, 0, 0], "immune": [0, 0, 255], "other": [9, 9, 9]}


def save_image(folder: Path, item: AnnotatedImage, suffix: str = ".png") -> Path:
    """Write the image, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{item.name}{suffix}"
    Image.fromarray(item.image).save(path)
    return path


def publish_folder(root: Path) -> Published:
    """Write two splits whose label maps and types come in every form."""
    train = [make_annotated(f"image_{number}", seed=number) for number in (1, 2, 10, 11)]
    test = [make_annotated("image_3", seed=3)]
    for split, images in (("train", train), ("test", test)):
        for folder in ("images", "labels", "types"):
            (root / split / folder).mkdir(parents=True)
        for item in images:
            save_image(root / split / "images", item, ".tif" if item.name == "image_2" else ".png")
    ids = [item.label_map.astype(np.int64) * 7 for item in train]
    labels, types = root / "train" / "labels", root / "train" / "types"
    np.save(labels / "image_1.npy", ids[0].astype(float))
    rows = [f"{i},{train[0].type_map[ids[0] == i][0]}" for i in np.unique(ids[0])[:0:-1]]
    (types / "image_1.csv").write_text("\n".join(["id,type", *rows]))
    Image.fromarray(ids[1].astype(np.uint16)).save(labels / "image_2.png")
    rows = [f"{CLASS_NAMES[train[1].type_map[ids[1] == i][0]]},{i}" for i in np.unique(ids[1])[1:]]
    (types / "image_2.csv").write_text("\n".join(["Type,ID", *rows]) + "\n")
    tifffile.imwrite(labels / "image_10.tif", ids[2].astype(np.uint32), compression="zlib")
    np.save(types / "image_10.npy", train[2].type_map)
    savemat(labels / "image_11.mat", {"inst_map": ids[3].astype(float), "type_map": train[3].type_map})
    np.save(root / "test" / "labels" / "image_3.npy", test[0].label_map)
    np.save(root / "test" / "types" / "image_3.npy", test[0].type_map.astype(np.int64))
    files = (
        root / "train" / "images" / "image_1.png",
        *(labels / f"image_{name}" for name in ("1.npy", "2.png", "10.tif", "11.mat")),
        types / "image_10.npy",
    )
    return Published({"train": train, "test": test}, {"mpp": 0.4, "class_names": CLASS_NAMES}, files)


def publish_colour_masks(root: Path) -> Published:
    """Write one split, in the root; nuclei of two types touch in one image."""
    images = [make_annotated(f"tile_{number}", seed=number) for number in (1, 2, 10)]
    images[1].label_map[1:6, 6:9] = images[1].label_map.max() + 1
    images[1].type_map[1:6, 6:9] = 4  # between nuclei of types 2 and 3
    palette = np.array([[0, 0, 0], *COLOURS.values()], np.uint8)
    for item in images:
        save_image(root / "images", item)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(palette[item.type_map]).save(root / "masks" / f"{item.name}.png")
    files = (root / "images" / "tile_10.png", root / "masks" / "tile_2.png")
    return Published({"All": images}, {"mpp": 0.5, "colours": COLOURS}, files)
