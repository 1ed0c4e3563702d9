"""Patches read straight from their files are those that Zarr reads."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from dataloader.annotations import AnnotatedImage
from dataloader.patch_shards import CHECKSUM_BYTES, ENTRY_BYTES, ShardedRows
from dataloader.patches import PatchSettings, PatchStore, prepare_store, write_patches
from tests.annotated import make_annotated

SETTINGS = PatchSettings(patch_size=16, patch_step=7, class_names=("background", "a", "b", "c", "d"))


def write_store(path: Path, *images: AnnotatedImage) -> PatchStore:
    prepare_store(path, SETTINGS, [image.name for image in images])
    write_patches(path, images)
    return PatchStore(path)


def without_nuclei(image: AnnotatedImage) -> AnnotatedImage:
    maps = {"label_map": np.zeros_like(image.label_map), "type_map": np.zeros_like(image.type_map)}
    return replace(image, **maps)


def assert_read_as_zarr_does(store: PatchStore) -> None:
    group = zarr.open_group(store.path, mode="r")
    for index in range(len(store)):
        patch = store.read(index)
        for key, values in patch._asdict().items():
            wanted = group[key][index]
            np.testing.assert_array_equal(values, wanted)
            assert values.dtype == wanted.dtype and values.flags.writeable and values.flags.c_contiguous


def test_every_patch_is_read_as_zarr_reads_it(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.zarr", make_annotated("one", (40, 50)), make_annotated("two", (9, 60)))
    assert_read_as_zarr_does(store)
    assert_read_as_zarr_does(pickle.loads(pickle.dumps(store)))


@pytest.mark.parametrize("shape", [(14, 21), (40, 50)], ids=["chunks of a file", "whole files"])
def test_chunks_and_files_that_zarr_left_out_are_zero(tmp_path: Path, shape: tuple[int, int]) -> None:
    full, empty = make_annotated("full", shape), without_nuclei(make_annotated("empty", shape))
    store = write_store(tmp_path / "s.zarr", full, empty)
    assert_read_as_zarr_does(store)
    assert not store.read(len(store) - 1).label_map.any()


def test_black_images_are_written_so_that_a_file_of_images_is_never_left_out(tmp_path: Path) -> None:
    annotated = make_annotated("black", (40, 50))
    store = write_store(tmp_path / "s.zarr", replace(annotated, image=np.zeros_like(annotated.image)))
    assert_read_as_zarr_does(store)
    assert len(_shards(store, "image")) == 3


def test_a_missing_file_of_images_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.zarr", make_annotated("one", (40, 50)))
    _shards(store, "image")[1].unlink()
    store.read(15)
    with pytest.raises(
        FileNotFoundError, match=r"image/c/1/0/0/0: missing, it holds row 16; extract the patches again"
    ):
        store.read(16)


@pytest.mark.parametrize("key", ["image", "label_map", "type_map"])
def test_a_bit_that_flipped_anywhere_in_a_file_is_an_error_or_changes_nothing(
    tmp_path: Path, key: str
) -> None:
    """A few bits of a header are not used; those of the values and of the index all are."""
    store = write_store(tmp_path / "s.zarr", make_annotated("one", (9, 30)))
    path = _shards(store, key)[0]
    content, rng = path.read_bytes(), np.random.default_rng(0)
    wanted = [getattr(store.read(index), key) for index in range(len(store))]
    num_errors, bits = 0, rng.choice(8 * len(content), 200, replace=False)
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            for index, values in enumerate(wanted):
                np.testing.assert_array_equal(getattr(PatchStore(store.path).read(index), key), values)
        except ValueError as error:
            assert f"{key}/c/0/0/0" in str(error) and "damaged" in str(error)
            num_errors += 1
    assert num_errors >= 0.95 * len(bits)


def test_an_index_that_calls_chunks_empty_is_an_error(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.zarr", make_annotated("one", (40, 50)))
    path = _shards(store, "label_map")[0]
    content = bytearray(path.read_bytes())
    content[-CHECKSUM_BYTES - ENTRY_BYTES : -CHECKSUM_BYTES] = b"\xff" * ENTRY_BYTES
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"label_map/c/0/0/0: damaged at row 0"):
        store.read(0)


def _shards(store: PatchStore, key: str) -> list[Path]:
    paths = (path for path in (store.path / key / "c").rglob("*") if path.is_file())
    return sorted(paths, key=lambda path: int(path.relative_to(store.path / key / "c").parts[0]))


@pytest.mark.parametrize("num_bytes", [0, 100, 300])
def test_a_file_cut_short_is_an_error_that_names_it(tmp_path: Path, num_bytes: int) -> None:
    store = write_store(tmp_path / "s.zarr", make_annotated("one", (40, 50)))
    path = store.path / "image" / "c" / "0" / "0" / "0" / "0"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=r"image/c/0/0/0/0: damaged at row 0; extract the patches again"):
        store.read(0)


def test_a_chunk_of_another_patch_size_is_an_error(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.zarr", make_annotated("one", (40, 50)))
    rows = store._rows["type_map"]
    for shape in ((15, 16), (17, 16)):
        with pytest.raises(ValueError, match="damaged"):
            replace(rows, shape=shape).read(0)


def test_an_array_stored_in_another_way_is_refused(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a", shape=(8, 4, 4), chunks=(2, 4, 4), shards=(8, 4, 4), dtype="uint8"
    )
    with pytest.raises(ValueError, match="'rows_per_chunk': 2.*extract the patches again"):
        ShardedRows.of(tmp_path / "a", array)
    plain = zarr.create_array(tmp_path / "b", shape=(8, 4, 4), chunks=(1, 4, 4), dtype="uint8")
    with pytest.raises(ValueError, match="extract the patches again"):
        ShardedRows.of(tmp_path / "b", plain)
