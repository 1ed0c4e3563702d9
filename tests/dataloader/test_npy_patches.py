"""Folders of the published code's patches: read as a patch store is, and refused where they are something else."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from dataloader.augment import GeometrySettings
from dataloader.npy_patches import NpyPatches
from dataloader.patch_dataset import PatchDataset
from tests.annotated import make_annotated

NAMES = ("background", "a", "b", "c", "d")


def write_patches(
    folder: Path, count: int = 3, *, has_types: bool = True, side: int = 40
) -> list[np.ndarray]:
    """Write int32 (S, S, 5) or (S, S, 4) files named as the published code names them."""
    folder.mkdir(parents=True)
    patches = []
    for number in range(count):
        item = make_annotated("", (side, side), seed=number)
        parts = [item.image, item.label_map, *([item.type_map] if has_types else [])]
        patches.append(np.dstack([np.asarray(part, np.int32) for part in parts]))
        np.save(folder / f"train_{number // 2 + 1}_{number % 2:03d}.npy", patches[-1])
    return patches


def write_one(folder: Path, values: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "one_000.npy", values)
    return folder


def test_patches_are_read_channel_by_channel_in_the_order_of_their_names(tmp_path: Path) -> None:
    patches = write_patches(tmp_path / "train")
    store = NpyPatches(tmp_path / "train", class_names=NAMES, mpp=0.5)
    assert (len(store), store.num_types, store.class_names, store.mpp) == (3, 5, NAMES, 0.5)
    assert store.source_names == ["train_1_000", "train_1_001", "train_2_000"]
    assert (store.settings.patch_size, store.settings.mpp) == (40, 0.5)
    for index, values in enumerate(patches):
        image, label_map, type_map = store.read(index)
        assert (image.dtype, label_map.dtype, type_map.dtype) == (np.uint8, np.int32, np.uint8)
        np.testing.assert_array_equal(np.dstack([image, label_map, type_map]), values)
        source = store.read_source(store.source_of(index))
        assert source.name == store.source_names[index]
        np.testing.assert_array_equal(source.label_map, values[..., 3])


def test_types_without_names_are_numbered_up_to_the_largest_of_all_patches(tmp_path: Path) -> None:
    write_patches(tmp_path / "train", 2)
    store = NpyPatches(tmp_path / "train")
    assert store.class_names == ("background", "type 1", "type 2", "type 3", "type 4")


def test_four_channels_hold_no_types(tmp_path: Path) -> None:
    write_patches(tmp_path / "train", has_types=False)
    store = NpyPatches(tmp_path / "train")
    assert (store.num_types, store.class_names) == (None, ())
    assert store.read(0).type_map is None and store.read_source(0).type_map is None


def test_the_published_folder_of_windows_and_steps_is_looked_into(tmp_path: Path) -> None:
    write_patches(tmp_path / "train" / "540x540_164x164")
    assert len(NpyPatches(tmp_path / "train")) == 3
    write_patches(tmp_path / "train" / "540x540_80x80")
    with pytest.raises(ValueError, match="540x540_164x164, 540x540_80x80"):
        NpyPatches(tmp_path / "train")


def test_a_training_set_is_made_of_them_and_survives_pickling(tmp_path: Path) -> None:
    patches = write_patches(tmp_path / "train")
    store = NpyPatches(tmp_path / "train", class_names=NAMES)
    plain = PatchDataset(store, 32)
    np.testing.assert_array_equal(plain[1]["image"], patches[1][4:36, 4:36, :3])
    assert int(plain[2]["source"]) == 2
    warped = PatchDataset(store, 32, augment=GeometrySettings())
    again = pickle.loads(pickle.dumps(warped))
    for key, values in warped[4].items():
        np.testing.assert_array_equal(values, again[4][key])


def test_stain_statistics_are_refused_with_the_remedy(tmp_path: Path) -> None:
    write_patches(tmp_path / "train", 1)
    with pytest.raises(ValueError, match=r"extract_patches\.py, or train with stain=none"):
        NpyPatches(tmp_path / "train").stain_statistics("macenko")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((8, 8, 3), np.int32), r"\(8, 8, 3\) int32; a patch is"),
        (np.zeros((8, 9, 5), np.int32), "a patch is"),
        (np.zeros((8, 8, 5), np.float32), "float32; a patch is"),
        (np.array([{"a": 1}], dtype=object), "not a readable .npy file"),
    ],
)
def test_arrays_that_are_no_patches_are_refused_by_name(
    values: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        NpyPatches(write_one(tmp_path / "train", values))
    assert "one_000.npy" in str(error.value)


@pytest.mark.parametrize(
    ("channel", "value", "message"),
    [
        (0, 256, "grey level 256, outside 0..255"),
        (3, -1, "id of a nucleus -1"),
        (4, 5, "type 5, outside 0..4; name all types in data.class_names"),
        (4, -1, "type -1"),
    ],
)
def test_values_out_of_range_are_refused_by_file(
    channel: int, value: int, message: str, tmp_path: Path
) -> None:
    values = np.zeros((8, 8, 5), np.int32)
    values[2, 3, channel] = value
    store = NpyPatches(write_one(tmp_path / "train", values), class_names=NAMES)
    with pytest.raises(ValueError, match=message):
        store.read(0)


def test_an_empty_fifth_channel_without_names_is_refused(tmp_path: Path) -> None:
    store = NpyPatches(write_one(tmp_path / "train", np.zeros((8, 8, 5), np.int32)))
    with pytest.raises(ValueError, match="largest type is 0"):
        _ = store.class_names


def test_folders_without_patches_and_of_two_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        NpyPatches(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no .npy patches"):
        NpyPatches(tmp_path / "empty")
    folder = tmp_path / "train"
    write_patches(folder, 2)
    np.save(folder / "z.npy", np.zeros((8, 8, 5), np.int32))
    with pytest.raises(ValueError, match=r"z\.npy is \(8, 8, 5\), train_1_000\.npy is \(40, 40, 5\)"):
        NpyPatches(folder)


def test_an_index_outside_is_an_index_error(tmp_path: Path) -> None:
    write_patches(tmp_path / "train", 1)
    with pytest.raises(IndexError, match="patch 1 of 1"):
        NpyPatches(tmp_path / "train").read(1)


def test_types_are_counted_over_whole_patches(tmp_path: Path) -> None:
    values = np.zeros((8, 8, 5), np.int32)
    values[:2, :, 4], values[7, 7, 4] = 1, 2
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", 0 * values)
    patches = NpyPatches(tmp_path, class_names=("background", "a", "b"))
    np.testing.assert_array_equal(patches.type_pixels(), [[47, 16, 1], [64, 0, 0]])
    np.save(tmp_path / "a.npy", values[..., :4])
    np.save(tmp_path / "b.npy", values[..., :4])
    assert NpyPatches(tmp_path).type_pixels().shape == (2, 0)
