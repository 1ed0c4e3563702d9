"""Lizard's and CoNIC's tables must fit their maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from dataloader.annotations import open_annotations
from tests.published.conic import publish_conic
from tests.published.lizard import publish_lizard


@pytest.fixture
def lizard(tmp_path: Path) -> Path:
    publish_lizard(tmp_path)
    return tmp_path


@pytest.fixture
def conic(tmp_path: Path) -> Path:
    publish_conic(tmp_path / "conic")
    return tmp_path / "conic"


def change_labels(root: Path, **changes: Any) -> None:
    path = root / "Lizard_Labels" / "Labels" / "consep_2.mat"
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("_")}
    savemat(path, {key: value for key, value in {**content, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": np.arange(5, 35)[:, None]}, "no type for 4 nuclei of the label map, ids 1, 2, 3, 4; add"),
        ({"id": np.ones((30, 1))}, "30 ids, 1 of them different, and 30 classes"),
        ({"class": np.ones((9, 1))}, "30 ids, 30 of them different, and 9 classes"),
        ({"class": np.full((30, 1), 7)}, "class holds type 7, but the class list has 0..6"),
        ({"class": None}, "has no 'class'"),
        ({"inst_map": np.full((40, 50), -2)}, "inst_map holds -2"),
        ({"inst_map": np.full((40, 50), 0.5)}, "inst_map holds values that are not whole"),
        ({"inst_map": np.ones((9, 50))}, r"inst_map is \(9, 50\), the image \(40, 50\)"),
    ],
)
def test_malformed_labels_name_file_and_fault(lizard: Path, changes: Any, message: str) -> None:
    change_labels(lizard, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        open_annotations("lizard", lizard).read("fold1", "consep_2")
    assert "consep_2.mat" in str(caught.value)


def test_an_image_without_nuclei_is_read(lizard: Path) -> None:
    change_labels(lizard, inst_map=np.zeros((40, 50)), **{"id": np.zeros((0, 0)), "class": np.zeros((0, 0))})
    item = open_annotations("lizard", lizard).read("fold1", "consep_2")
    assert not item.label_map.any() and not item.type_map.any()


def test_an_image_with_one_nucleus_is_read(lizard: Path) -> None:
    change_labels(
        lizard, inst_map=np.full((40, 50), 3.0), **{"id": np.array([[3]]), "class": np.array([[6]])}
    )
    item = open_annotations("lizard", lizard).read("fold1", "consep_2")
    assert (item.label_map == 1).all() and (item.type_map == 6).all()


def test_an_image_that_only_the_table_names_is_missed(lizard: Path) -> None:
    (lizard / "Lizard_Images1" / "consep_10.png").unlink()
    with pytest.raises(FileNotFoundError, match="no consep_10.png, which info.csv names"):
        open_annotations("lizard", lizard).list_names("fold1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'filename'"),
        ("Filename,Source\nconsep_2,consep\n", "no column 'split'"),
        ("Filename,Source,Split\nconsep_2,consep\n", "line 2 has 2 cells, the header 3"),
    ],
)
def test_a_malformed_table_of_folds_is_refused(lizard: Path, text: str, message: str) -> None:
    (lizard / "Lizard_Labels" / "info.csv").write_text(text)
    with pytest.raises(ValueError, match=f"info.csv: {message}"):
        open_annotations("lizard", lizard)


def test_patches_without_tables_are_numbered(conic: Path) -> None:
    (conic / "counts.csv").unlink()
    (conic / "patch_info.csv").unlink()
    assert open_annotations("conic", conic).list_names("All")[-1] == "patch_11"


@pytest.mark.parametrize("name", ["counts.csv", "patch_info.csv"])
def test_a_table_of_other_patches_is_refused(conic: Path, name: str) -> None:
    lines = (conic / name).read_text().splitlines()
    (conic / name).write_text("\n".join(lines[:-2]))
    with pytest.raises(ValueError, match=f"{name}: 10 rows for 12 patches"):
        open_annotations("conic", conic)


def test_types_beyond_the_class_list_are_refused(conic: Path) -> None:
    labels = np.load(conic / "labels.npy")
    labels[1, 0, 0, 1] = 9
    np.save(conic / "labels.npy", labels)
    with pytest.raises(
        ValueError, match=r"labels.npy: patch 1: types holds type 9, but the class list has 0..6"
    ):
        open_annotations("conic", conic).read("All", "consep_1-0001")


def test_negative_ids_are_refused(conic: Path) -> None:
    labels = np.load(conic / "labels.npy").astype(np.int32)
    labels[1, 0, 0, 0] = -4
    np.save(conic / "labels.npy", labels)
    with pytest.raises(ValueError, match="labels.npy: patch 1: ids holds -4"):
        open_annotations("conic", conic).read("All", "consep_1-0001")


def test_images_and_labels_of_different_length_are_refused(conic: Path) -> None:
    np.save(conic / "labels.npy", np.load(conic / "labels.npy")[:5])
    with pytest.raises(ValueError, match=r"labels.npy: shape .* for images of shape"):
        open_annotations("conic", conic)
