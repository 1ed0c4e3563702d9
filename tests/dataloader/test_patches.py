"""A patch store gives back what was cut, resumes what was killed, and never mixes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from dataloader.annotations import AnnotatedImage
from dataloader.patch_codec import from_differences, to_differences
from dataloader.patches import PatchSettings, PatchStore, place_patches, prepare_store, write_patches
from dataloader.stain import NORMALIZERS
from tests.annotated import make_annotated
from tests.stained import stain_image

TYPES = ("background", "a", "b", "c", "d")
SMALL = PatchSettings(patch_size=16, patch_step=7, class_names=TYPES, mpp=0.5, adapter="consep")


def write_store(path: Path, images: list[AnnotatedImage], settings: PatchSettings = SMALL) -> PatchStore:
    prepare_store(path, settings, [image.name for image in images])
    write_patches(path, images)
    return PatchStore(path)


def assert_same(one: AnnotatedImage, other: AnnotatedImage) -> None:
    assert one.name == other.name
    for key in ("image", "label_map", "type_map"):
        first, second = getattr(one, key), getattr(other, key)
        assert (first is None) == (second is None)
        if first is not None:
            np.testing.assert_array_equal(first, second)
            assert first.dtype == second.dtype


@pytest.mark.parametrize("border", ["mirror", "valid"])
@pytest.mark.parametrize(("size", "step"), [(16, 7), (16, 16), (9, 1), (15, 8)])
def test_patches_cover_every_pixel(border: str, size: int, step: int) -> None:
    settings = PatchSettings(patch_size=size, patch_step=step, border=border)
    for length in range(size if border == "valid" else 1, 60):
        starts = place_patches(length, settings)
        covered = {pixel for start in starts for pixel in range(start, start + size)}
        assert covered >= set(range(length))
        assert (np.diff(starts) > 0).all()
        if border == "valid":
            assert starts[0] == 0 and starts[-1] == length - size


def test_mirrored_centres_tile_the_image() -> None:
    starts = place_patches(1000, PatchSettings(patch_size=540, patch_step=256))
    assert (starts + (540 - 256) // 2).tolist() == [0, 256, 512, 768]


@pytest.mark.parametrize("border", ["mirror", "valid"])
@pytest.mark.parametrize("shape", [(40, 50), (16, 16), (17, 91)])
def test_a_source_is_put_together_exactly(tmp_path: Path, border: str, shape: tuple[int, int]) -> None:
    images = [make_annotated("one", shape, seed=1), make_annotated("two", (33, 21), seed=2)]
    store = write_store(tmp_path / "s.zarr", images, replace(SMALL, border=border))
    assert store.source_names == ["one", "two"]
    for number, image in enumerate(images):
        assert_same(store.read_source(number), image)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (5, 7)])
def test_an_image_smaller_than_the_window_is_mirrored_as_often_as_it_takes(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    image = make_annotated("tiny", shape)
    assert_same(write_store(tmp_path / "s.zarr", [image]).read_source(0), image)


def test_an_image_smaller_than_the_window_is_refused_without_mirror(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least patch_size=16 pixels, this one has 9; use border=mirror"):
        write_store(tmp_path / "s.zarr", [make_annotated("tiny", (9, 30))], replace(SMALL, border="valid"))


def test_a_mirrored_patch_is_a_reflection_around_the_edge_pixel(tmp_path: Path) -> None:
    image = make_annotated("one", (40, 50), seed=3)
    store = write_store(tmp_path / "s.zarr", [image])
    corner = store.read(0)
    assert tuple(zarr.open_group(store.path, mode="r")["position_yx"][0]) == (-4, -4)
    for y, x in itertools.product(range(16), range(16)):
        np.testing.assert_array_equal(corner.image[y, x], image.image[abs(y - 4), abs(x - 4)])
        assert corner.label_map[y, x] == image.label_map[abs(y - 4), abs(x - 4)]


def test_a_store_says_what_it_holds(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.zarr", [make_annotated("one", (40, 50))])
    assert len(store) == 6 * 8
    assert (store.num_types, store.class_names, store.mpp) == (5, TYPES, 0.5)
    assert store.num_nuclei == make_annotated("one", (40, 50)).label_map.max()
    group = zarr.open_group(store.path, mode="r")
    shapes = {key: (array.shape, str(array.dtype)) for key, array in group.arrays()}
    assert shapes == {
        "image": ((48, 16, 16, 3), "uint8"),
        "label_map": ((48, 16, 16), "int32"),
        "type_map": ((48, 16, 16), "uint8"),
        "source": ((48,), "int32"),
        "position_yx": ((48, 2), "int32"),
    }


def test_many_patches_share_a_file(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.zarr", [make_annotated(str(i), (40, 50), seed=i) for i in range(4)])
    num_files = sum(path.is_file() for path in store.path.rglob("*"))
    assert len(store) == 192 and num_files <= 3 * 192 / 16 + 2 + 6


def test_a_store_without_types_has_no_type_map(tmp_path: Path) -> None:
    image = replace(make_annotated("one"), type_map=None)
    store = write_store(tmp_path / "s.zarr", [image], replace(SMALL, class_names=()))
    assert store.num_types is None and store.read(0).type_map is None
    assert "type_map" not in zarr.open_group(store.path, mode="r")
    assert_same(store.read_source(0), image)


def test_a_missing_type_map_is_refused_where_the_store_has_types(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one: has no type map"):
        write_store(tmp_path / "s.zarr", [replace(make_annotated("one"), type_map=None)])


def test_ids_above_sixteen_bits_survive(tmp_path: Path) -> None:
    image = make_annotated("one")
    image = replace(
        image, label_map=np.where(image.label_map > 0, image.label_map + 70_000, 0).astype(np.int32)
    )
    assert_same(write_store(tmp_path / "s.zarr", [image]).read_source(0), image)


def test_the_filter_is_undone_exactly() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 11, 17, 3), dtype=np.uint8)
    np.testing.assert_array_equal(from_differences(to_differences(rgb)), rgb)
    assert to_differences(rgb).shape == (2, 3, 11, 17)


def killed_after(images: list[AnnotatedImage], count: int) -> Iterator[AnnotatedImage]:
    yield from images[:count]
    raise KeyboardInterrupt


def test_a_killed_extraction_resumes_to_the_same_store(tmp_path: Path) -> None:
    images = [make_annotated(str(i), (40, 50 + i), seed=i) for i in range(4)]
    names = [image.name for image in images]
    unbroken = write_store(tmp_path / "unbroken.zarr", images)
    broken = tmp_path / "broken.zarr"
    assert prepare_store(broken, SMALL, names) == names
    with pytest.raises(KeyboardInterrupt):
        write_patches(broken, killed_after(images, 2))
    with pytest.raises(ValueError, match="unfinished, 2 of 4 images are there; run the extraction again"):
        PatchStore(broken)
    leave_half_written_rows(broken)
    assert prepare_store(broken, SMALL, names) == names[2:]
    write_patches(broken, images[2:])
    resumed = PatchStore(broken)
    assert len(resumed) == len(unbroken)
    groups = [zarr.open_group(store.path, mode="r") for store in (resumed, unbroken)]
    assert groups[0].attrs.asdict() == groups[1].attrs.asdict()
    for key in groups[1]:
        np.testing.assert_array_equal(groups[0][key][:], groups[1][key][:])
    assert prepare_store(broken, SMALL, names) == []


def leave_half_written_rows(path: Path) -> None:
    """Do what a kill between the arrays and the attributes leaves behind."""
    group = zarr.open_group(path, mode="r+")
    for key in ("image", "label_map"):
        array = group[key]
        stop = array.shape[0]
        array.resize((stop + 900, *array.shape[1:]))
        array[stop : stop + 20] = 77


def test_a_store_prepared_and_left_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    prepare_store(path, SMALL, ["one"])
    assert prepare_store(path, SMALL, ["one"]) == ["one"]
    write_patches(path, [make_annotated("one")])
    assert_same(PatchStore(path).read_source(0), make_annotated("one"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 20}, "made with patch_size=16, now 20 is asked for"),
        ({"patch_step": 8}, "made with patch_step=7, now 8"),
        ({"border": "valid"}, "made with border=mirror, now valid"),
        ({"mpp": 0.25}, "made with mpp=0.5, now 0.25"),
        ({"class_names": ("background", "x")}, "made with class_names="),
        ({"adapter": "other"}, "made with adapter=consep, now other"),
    ],
)
def test_a_store_of_other_settings_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    write_store(tmp_path / "s.zarr", [make_annotated("one")])
    with pytest.raises(ValueError, match=message):
        prepare_store(tmp_path / "s.zarr", replace(SMALL, **change), ["one"])


def test_a_store_of_other_images_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "s.zarr", [make_annotated("one")])
    with pytest.raises(
        ValueError, match=r"made with source_names=\['one'\], now \['one', 'two'\] is asked for"
    ):
        prepare_store(tmp_path / "s.zarr", SMALL, ["one", "two"])


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("four years")
    with pytest.raises(ValueError, match="is no patch store"):
        prepare_store(tmp_path, SMALL, ["one"])
    assert (tmp_path / "thesis.txt").read_text() == "four years"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_zarr_group_of_something_else_is_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "s.zarr", attributes={"mine": 1})
    with pytest.raises(ValueError, match="is no patch store"):
        prepare_store(tmp_path / "s.zarr", SMALL, ["one"])


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.zarr").write_text("a file")
    with pytest.raises(ValueError, match="is a file"):
        prepare_store(tmp_path / "s.zarr", SMALL, ["one"])


def test_a_missing_store_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing.zarr: no such folder; .* extract_patches.py"):
        PatchStore(tmp_path / "nothing.zarr")


def test_images_out_of_order_are_refused(tmp_path: Path) -> None:
    prepare_store(tmp_path / "s.zarr", SMALL, ["one", "two"])
    with pytest.raises(ValueError, match="'two' is not the next image"):
        write_patches(tmp_path / "s.zarr", [make_annotated("two")])


def test_a_step_that_leaves_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patch_step=17 must lie in 1..patch_size=16"):
        PatchSettings(patch_size=16, patch_step=17)


def test_a_patch_outside_the_store_is_an_index_error(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.zarr", [make_annotated("one")])
    with pytest.raises(IndexError, match="patch 48 of 48"):
        store.read(48)


def test_the_stain_of_a_source_is_fitted_on_the_whole_of_it(tmp_path: Path) -> None:
    images = [
        AnnotatedImage(str(n), stain_image(70, 60, seed=n), np.eye(70, 60, dtype=np.int32)) for n in (1, 2)
    ]
    store = write_store(tmp_path / "s.zarr", images, replace(SMALL, class_names=()))
    for method, normalizer in NORMALIZERS.items():
        assert store.stain_statistics(method) == [normalizer().estimate(image.image) for image in images]


def test_a_source_without_stain_is_named_and_its_statistics_are_the_identity(tmp_path: Path, caplog) -> None:
    white = AnnotatedImage("white", np.full((40, 40, 3), 255, np.uint8), np.zeros((40, 40), np.int32))
    store = write_store(tmp_path / "s.zarr", [white], replace(SMALL, class_names=()))
    assert all(store.stain_statistics(method)[0].is_identity for method in NORMALIZERS)
    assert "white: no stain could be fitted by macenko, vahadane, reinhard" in caplog.text


def test_a_store_of_an_older_version_is_read_but_has_no_stain(tmp_path: Path) -> None:
    write_store(tmp_path / "s.zarr", [make_annotated("one")])
    group = zarr.open_group(tmp_path / "s.zarr")
    group.attrs["finished"] = [
        {k: v for k, v in done.items() if k != "stain"} for done in group.attrs["finished"]
    ]
    store = PatchStore(tmp_path / "s.zarr")
    assert_same(store.read_source(0), make_annotated("one"))
    with pytest.raises(ValueError, match="no 'macenko' stain statistics.*extract into another folder"):
        store.stain_statistics("macenko")


def test_a_patch_knows_its_source(tmp_path: Path) -> None:
    images = [make_annotated("one", (40, 50)), make_annotated("two", (17, 20)), make_annotated("three")]
    store = write_store(tmp_path / "s.zarr", images)
    stored = zarr.open_group(tmp_path / "s.zarr")["source"][:]
    assert [store.source_of(index) for index in range(len(store))] == stored.tolist()


def test_type_counts_add_up_to_the_pixels_of_an_image_that_centres_tile(tmp_path: Path) -> None:
    image = make_annotated("1", (32, 48))
    store = write_store(tmp_path / "s.zarr", [image], replace(SMALL, patch_size=32, patch_step=16))
    np.testing.assert_array_equal(
        store.type_pixels().sum(axis=0), np.bincount(image.type_map.reshape(-1), minlength=5)
    )


def test_an_older_store_without_type_counts_is_counted_to_the_same(tmp_path: Path) -> None:
    images = [make_annotated("1", (32, 48)), make_annotated("2", (40, 40), seed=1)]
    counts = write_store(tmp_path / "s.zarr", images).type_pixels()
    group = zarr.open_group(tmp_path / "s.zarr", mode="r+")
    finished = [{key: done[key] for key in done if key != "type_pixels"} for done in group.attrs["finished"]]
    group.attrs["finished"] = finished
    np.testing.assert_array_equal(PatchStore(tmp_path / "s.zarr").type_pixels(), counts)


def test_a_store_without_types_counts_none(tmp_path: Path) -> None:
    image = replace(make_annotated("1"), type_map=None)
    store = write_store(tmp_path / "s.zarr", [image], replace(SMALL, class_names=()))
    assert store.type_pixels().shape == (len(store), 0)
