"""Users' own label maps and types: each fault is named with its file and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dataloader.annotations import AnnotationAdapter, open_annotations
from tests.annotated import make_annotated
from tests.published.generic import CLASS_NAMES, publish_folder, save_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish_folder(tmp_path)
    return tmp_path


def open_root(root: Path, **options: Any) -> AnnotationAdapter:
    return open_annotations("folder", root, **{"mpp": 0.5, "class_names": CLASS_NAMES, **options})


def read(root: Path, name: str = "image_1", **options: Any) -> Any:
    return open_root(root, **options).read("train", name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((40, 50), -3), "image_1.npy: label map holds -3; ids and types start at 0"),
        (np.full((40, 50), 1.5), "image_1.npy: label map holds values that are not whole"),
        (np.full((40, 50), np.nan), "image_1.npy: label map holds values that are not whole"),
        (np.full((40, 50), np.inf), "image_1.npy: label map holds values that are not whole"),
        (np.ones((50, 40), int), r"image_1.npy: label map is \(50, 40\), the image \(40, 50\)"),
        (np.ones((40, 50, 3), int), "an .H, W. map of numbers is needed"),
        (np.full((40, 50), 5), "image_1.csv: no type for 1 nuclei of the label map, ids 5; add their rows"),
    ],
)
def test_malformed_label_maps_are_refused(root: Path, values: np.ndarray, message: str) -> None:
    np.save(root / "train" / "labels" / "image_1.npy", values)
    with pytest.raises(ValueError, match=message):
        read(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,kind\n7,1\n", "no column 'type'; the first line must name: id, type"),
        ("id,type\n7,1\n7,2\n", "id '7' stands twice"),
        ("id,type\n-7,1\n", "id '-7' stands twice or is no number from 0 up"),
        ("id,type\n7,lymphocyte\n", "type 'lymphocyte' of id 7 is neither a number nor one of class_names="),
        (
            "id,type\n" + "".join(f"{7 * i},5\n" for i in range(1, 31)),
            "holds type 5, but the class list has 0..4",
        ),
        ("id,type\n7\n", "line 2 has 1 cells, the header 2"),
    ],
)
def test_malformed_tables_of_types_are_refused(root: Path, text: str, message: str) -> None:
    (root / "train" / "types" / "image_1.csv").write_text(text)
    with pytest.raises(ValueError, match=f"image_1.csv: .*{message}|image_1.csv {message}"):
        read(root)


def test_rows_without_a_nucleus_are_left_over(root: Path) -> None:
    path = root / "train" / "types" / "image_1.csv"
    before = read(root).type_map
    path.write_text(path.read_text() + "\n9999,2\n")
    np.testing.assert_array_equal(read(root).type_map, before)


def test_a_type_map_beyond_the_class_list_is_refused(root: Path) -> None:
    np.save(root / "train" / "types" / "image_10.npy", np.full((40, 50), 5))
    with pytest.raises(
        ValueError, match="image_10.npy holds type 5, but the class list has 0..4 .background, tumour"
    ):
        read(root, "image_10")


def test_types_without_names_ask_for_them(root: Path) -> None:
    with pytest.raises(ValueError, match="image_1.csv: types without names; set data.class_names="):
        read(root, class_names=())


def test_names_without_types_ask_for_them(root: Path) -> None:
    (root / "train" / "types" / "image_1.csv").unlink()
    with pytest.raises(FileNotFoundError, match="image_1.csv: no types for image image_1.png; add this file"):
        read(root)


def test_two_files_of_types_are_refused(root: Path) -> None:
    np.save(root / "train" / "types" / "image_1.npy", np.zeros((40, 50)))
    with pytest.raises(
        ValueError, match="image_1.csv: .*image_1.npy gives types of the same image; remove either"
    ):
        read(root)


def test_two_label_maps_of_an_image_are_refused(root: Path) -> None:
    savemat(root / "train" / "labels" / "image_1.mat", {"inst_map": np.zeros((40, 50))})
    with pytest.raises(ValueError, match="image_1.mat: image_1.npy is for the same image; remove either"):
        open_root(root)


def test_images_without_types_have_none(tmp_path: Path) -> None:
    item = make_annotated("a")
    save_image(tmp_path / "images", item)
    (tmp_path / "labels").mkdir()
    Image.fromarray(item.label_map.astype(np.uint8)).save(tmp_path / "labels" / "a.png")
    adapter = open_annotations("folder", tmp_path, mpp=0.25)
    assert (adapter.list_splits(), adapter.class_names) == (["All"], ())
    found = adapter.read("All", "a")
    assert found.type_map is None
    np.testing.assert_array_equal(found.label_map, item.label_map)


def test_a_label_map_in_colours_is_refused_with_the_other_adapter(root: Path) -> None:
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(root / "train" / "labels" / "image_2.png")
    with pytest.raises(ValueError, match="image_2.png: pixels of mode 'RGB'; .*data.adapter=colour_masks"):
        read(root, "image_2")


def test_an_image_without_labels_is_refused(root: Path) -> None:
    (root / "train" / "labels" / "image_10.tif").unlink()
    with pytest.raises(
        FileNotFoundError, match="no labels for image image_10.png; add the file or remove the image"
    ):
        open_root(root).list_names("train")


@pytest.mark.parametrize("adapter", ["folder", "colour_masks", "geojson", "coco"])
def test_a_resolution_must_be_given(tmp_path: Path, adapter: str) -> None:
    with pytest.raises(ValueError, match="set data.mpp, such as data.mpp=0.25"):
        open_annotations(adapter, tmp_path)


@pytest.mark.parametrize("names", [("tumour", "stroma"), ("background",), ("background", "a", "a")])
def test_class_names_must_begin_with_background(root: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="must be background and then the name of each type"):
        open_root(root, class_names=names)
