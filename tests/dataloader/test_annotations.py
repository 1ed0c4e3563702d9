"""Adapters read what was published, and say what is wrong with a file that is not so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from dataloader.annotations import open_annotations
from tests.annotated import make_annotated, write_consep


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_consep(tmp_path, "Train", [make_annotated(f"train_{i}", seed=i) for i in (1, 2, 10)])
    return tmp_path


def change_labels(root: Path, name: str = "train_2", **changes: Any) -> None:
    path = root / "Train" / "Labels" / f"{name}.mat"
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("_")}
    content.update(changes)
    savemat(path, {key: value for key, value in content.items() if value is not None})


def test_an_image_comes_back_as_it_was_written(root: Path) -> None:
    written = make_annotated("train_2", seed=2)
    read = open_annotations("consep", root).read("Train", "train_2")
    assert read.name == "train_2"
    np.testing.assert_array_equal(read.image, written.image)
    np.testing.assert_array_equal(read.label_map, written.label_map)
    np.testing.assert_array_equal(read.type_map, written.type_map)
    assert (read.image.dtype, read.label_map.dtype, read.type_map.dtype) == (np.uint8, np.int32, np.uint8)


def test_names_are_in_their_natural_order(root: Path) -> None:
    assert open_annotations("consep", root).list_names("Train") == ["train_1", "train_2", "train_10"]


def test_an_unknown_adapter_lists_the_known_ones(root: Path) -> None:
    with pytest.raises(ValueError, match="adapter='nobody' is not known; use one of: .*consep"):
        open_annotations("nobody", root)


def test_a_missing_split_lists_the_splits_that_are_there(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="splits found: Train"):
        open_annotations("consep", root).list_names("Validation")


def test_ids_of_any_size_become_one_to_k(root: Path) -> None:
    label_map = make_annotated("x").label_map.astype(np.int64)
    change_labels(root, inst_map=np.where(label_map > 0, label_map * 70_001 + 65_536, 0))
    read = open_annotations("consep", root).read("Train", "train_2")
    np.testing.assert_array_equal(read.label_map, label_map)


def test_a_map_without_background_starts_at_one(root: Path) -> None:
    change_labels(root, inst_map=np.full((40, 50), 9))
    assert (open_annotations("consep", root).read("Train", "train_2").label_map == 1).all()


def test_an_image_without_nuclei_is_read(root: Path) -> None:
    change_labels(root, inst_map=np.zeros((40, 50)), type_map=np.zeros((40, 50)))
    read = open_annotations("consep", root).read("Train", "train_2")
    assert not read.label_map.any() and not read.type_map.any()


def test_a_nucleus_may_have_pixels_of_two_types(root: Path) -> None:
    types = make_annotated("x").type_map.copy()
    types[1, 1:6] = 4
    change_labels(root, type_map=types)
    np.testing.assert_array_equal(open_annotations("consep", root).read("Train", "train_2").type_map, types)


def test_whole_numbers_saved_as_double_are_read(root: Path) -> None:
    written = make_annotated("x")
    change_labels(root, inst_map=written.label_map.astype(float), type_map=written.type_map.astype(float))
    read = open_annotations("consep", root).read("Train", "train_2")
    np.testing.assert_array_equal(read.type_map, written.type_map)


def test_raw_types_are_merged_as_in_the_paper(root: Path) -> None:
    raw = np.tile(np.arange(8), (40, 7))[:, :50]
    change_labels(root, type_map=raw)
    read = open_annotations("consep", root).read("Train", "train_2")
    paper = {0: 0, 1: 1, 2: 2, 3: 3, 4: 3, 5: 4, 6: 4, 7: 4}
    np.testing.assert_array_equal(read.type_map, np.vectorize(paper.get)(raw))


def test_one_raw_image_makes_the_split_raw(root: Path) -> None:
    before = open_annotations("consep", root).read("Train", "train_1").type_map
    change_labels(root, type_map=np.full((40, 50), 7))
    after = open_annotations("consep", root).read("Train", "train_1").type_map
    np.testing.assert_array_equal(after, np.where(before == 4, 3, before))


def test_types_can_be_declared_raw(root: Path) -> None:
    merged = open_annotations("consep", root, types="merged").read("Train", "train_1").type_map
    raw = open_annotations("consep", root, types="raw").read("Train", "train_1").type_map
    np.testing.assert_array_equal(raw, np.where(merged == 4, 3, merged))


def test_an_unknown_kind_of_types_lists_the_known_ones(root: Path) -> None:
    with pytest.raises(ValueError, match="auto, merged, raw"):
        open_annotations("consep", root, types="seven")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"inst_map": None}, {}, "has no 'inst_map'"),
        ({"type_map": None}, {}, "has no 'type_map'"),
        ({"inst_map": np.ones((7, 50))}, {}, r"inst_map is \(7, 50\), the image \(40, 50\)"),
        ({"type_map": np.ones((40, 9))}, {}, r"type_map is \(40, 9\), the image \(40, 50\)"),
        ({"inst_map": np.full((40, 50), -3)}, {}, "inst_map holds -3"),
        ({"inst_map": np.full((40, 50), 1.5)}, {}, "inst_map holds values that are not whole"),
        ({"inst_map": np.full((40, 50), np.nan)}, {}, "inst_map holds values that are not whole"),
        ({"inst_map": np.ones((40, 50, 2))}, {}, "an .H, W. map of numbers is needed"),
        ({"inst_map": "a text"}, {}, "an .H, W. map of numbers is needed"),
        ({"type_map": np.full((40, 50), 8)}, {}, "holds type 8, but types=raw has 0..7"),
        ({"type_map": np.full((40, 50), 6)}, {"types": "merged"}, "holds type 6, .* set data.types=raw"),
    ],
)
def test_malformed_labels_name_file_and_fault(root: Path, changes: Any, options: Any, message: str) -> None:
    change_labels(root, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        open_annotations("consep", root, **options).read("Train", "train_2")
    assert "train_2.mat" in str(caught.value)


def test_an_image_without_labels_is_refused(root: Path) -> None:
    (root / "Train" / "Labels" / "train_2.mat").unlink()
    with pytest.raises(FileNotFoundError, match="train_2.mat: no labels for image train_2.png"):
        open_annotations("consep", root).list_names("Train")


def test_a_missing_image_is_refused(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train_3.png"):
        open_annotations("consep", root).read("Train", "train_3")


@pytest.mark.parametrize(("folder", "suffix"), [("Images", "png"), ("Labels", "mat")])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_a_truncated_file_is_refused(root: Path, folder: str, suffix: str, share: float) -> None:
    path = root / "Train" / folder / f"train_2.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=f"train_2.{suffix}: not a whole"):
        open_annotations("consep", root, types="merged").read("Train", "train_2")


def test_labels_saved_as_hdf5_are_refused_with_the_remedy(root: Path) -> None:
    header = b"MATLAB 7.3 MAT-file".ljust(124, b" ") + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n"
    (root / "Train" / "Labels" / "train_2.mat").write_bytes(header.ljust(2048, b"\0"))
    with pytest.raises(ValueError, match="v7.3 .HDF5.; save it anew with -v7"):
        open_annotations("consep", root, types="merged").read("Train", "train_2")


def test_an_alpha_channel_is_dropped(root: Path) -> None:
    path = root / "Train" / "Images" / "train_2.png"
    rgb = np.asarray(Image.open(path))
    Image.fromarray(np.dstack([rgb, np.full(rgb.shape[:2], 128, np.uint8)])).save(path)
    np.testing.assert_array_equal(open_annotations("consep", root).read("Train", "train_2").image, rgb)


def test_a_sixteen_bit_image_is_refused(root: Path) -> None:
    Image.fromarray(np.zeros((40, 50), np.uint16)).save(root / "Train" / "Images" / "train_2.png")
    with pytest.raises(ValueError, match="an 8-bit RGB image is needed"):
        open_annotations("consep", root).read("Train", "train_2")


def test_the_published_test_split_has_the_published_nuclei(consep_dir: Path) -> None:
    adapter = open_annotations("consep", consep_dir)
    names = adapter.list_names("Test")
    counts = np.zeros(5, np.int64)
    for name in names:
        item = adapter.read("Test", name)
        votes = np.zeros((item.label_map.max() + 1, 5), np.int64)
        np.add.at(votes, (item.label_map.ravel(), item.type_map.ravel()), 1)
        counts += np.bincount(votes[1:].argmax(axis=1), minlength=5)
    assert len(names) == 14
    assert counts.tolist() == [0, 561, 1638, 3214, 3364]  # ../shared/data/README.md
