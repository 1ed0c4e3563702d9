"""What every adapter of a data set keeps: the images that were published, and a line where a file is not so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataloader.annotations import ADAPTERS, AnnotationAdapter, open_annotations
from dataloader.annotations.merging import MergedAdapter
from dataloader.patches import PatchStore
from run_utils.doctor.complaints import FileIndex
from run_utils.extraction import extract_patches, plan_stores
from tests.published import PUBLISHED, Published

Case = tuple[str, Path, Published]


@pytest.fixture(params=sorted(ADAPTERS))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return request.param, tmp_path / "data", PUBLISHED[request.param](tmp_path / "data")


@pytest.fixture
def adapter(case: Case) -> AnnotationAdapter:
    name, root, published = case
    return open_annotations(name, root, **published.options)


def test_every_adapter_is_published_by_a_test() -> None:
    assert ADAPTERS.keys() == PUBLISHED.keys()


def test_splits_and_names_are_listed_in_order(adapter: AnnotationAdapter, case: Case) -> None:
    images = case[2].images
    assert sorted(adapter.list_splits()) == sorted(images)
    for split, annotated in images.items():
        assert adapter.list_names(split) == [image.name for image in annotated]


def test_images_nuclei_and_types_come_back_as_they_were_written(
    adapter: AnnotationAdapter, case: Case
) -> None:
    assert adapter.name == case[0]
    assert adapter.mpp > 0
    for split, annotated in case[2].images.items():
        for expected in annotated:
            found = adapter.read(split, expected.name)
            assert (found.name, found.tissue) == (expected.name, expected.tissue)
            np.testing.assert_array_equal(found.image, expected.image)
            assert (found.image.dtype, found.label_map.dtype) == (np.uint8, np.int32)
            assert_same_nuclei(found.label_map, expected.label_map)
            assert (found.type_map is None) == (expected.type_map is None) == (not adapter.class_names)
            if found.type_map is not None and expected.type_map is not None:
                assert found.type_map.dtype == np.uint8
                np.testing.assert_array_equal(found.type_map, expected.type_map)
                assert found.type_map.max(initial=0) < len(adapter.class_names)
                assert adapter.class_names[0] == "background"


def assert_same_nuclei(found: np.ndarray, expected: np.ndarray) -> None:
    """Check for the same nuclei, whatever their order, numbered 1..K."""
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    ids = np.unique(expected)
    assert pairs.shape[1] == len(ids), "a nucleus has another shape, is torn, or joined to another"
    assert np.unique(found).tolist() == list(range(len(ids))) if 0 in ids else True
    assert ((pairs[0] == 0) == (pairs[1] == 0)).all()


def test_patches_are_cut_from_every_split(adapter: AnnotationAdapter, case: Case, tmp_path: Path) -> None:
    splits = list(case[2].images)
    plans = plan_stores(adapter, splits, num_validation=0)
    paths = extract_patches(adapter, tmp_path / "patches", plans, patch_size=32, patch_step=16)
    for split, path in zip(splits, paths, strict=True):
        store = PatchStore(path)
        assert store.class_names == tuple(adapter.class_names)
        first = store.read_source(0)
        np.testing.assert_array_equal(first.image, case[2].images[split][0].image)


@pytest.mark.parametrize("is_merged", [False, True])
def test_every_image_has_its_files_by_adapter_or_by_name(case: Case, is_merged: bool) -> None:
    name, root, published = case
    adapter = open_annotations(name, root, **published.options)
    if is_merged and adapter.class_names:
        merge_types = [0, *(1 for _ in adapter.class_names[1:])]
        adapter = MergedAdapter(adapter, merge_types, ["background", "any"])
    index = FileIndex(root, adapter)
    for split, annotated in published.images.items():
        for image in annotated:
            files = index.find(split, image.name)
            assert len(files) >= 2, "an image and its nuclei"
            assert all((root / file).is_file() for file in files)


def test_an_unknown_split_lists_those_there_are(adapter: AnnotationAdapter, case: Case) -> None:
    with pytest.raises(FileNotFoundError, match=next(iter(case[2].images))):
        adapter.list_names("Nowhere")


def test_an_unknown_name_is_refused(adapter: AnnotationAdapter, case: Case) -> None:
    with pytest.raises(FileNotFoundError, match="nobody"):
        adapter.read(next(iter(case[2].images)), "nobody")


def test_a_folder_that_is_not_there_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_annotations(case[0], tmp_path / "nowhere", **case[2].options)


def test_a_truncated_file_is_refused_by_name(case: Case) -> None:
    name, root, published = case
    assert published.files
    for path in published.files:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 3])
        with pytest.raises(ValueError, match=path.name):
            adapter = open_annotations(name, root, **published.options)
            for split in adapter.list_splits():
                for image in adapter.list_names(split):
                    adapter.read(split, image)
        path.write_bytes(whole)


def test_types_can_be_merged(case: Case) -> None:
    name, root, published = case
    plain = open_annotations(name, root, **published.options)
    if not plain.class_names:
        with pytest.raises(ValueError, match="this data set has no types"):
            open_annotations(name, root, **published.options, merge_types=[0, 1], merged_names=["b", "n"])
        return
    merge = [0] + [1] * (len(plain.class_names) - 1)
    options = {**published.options, "merge_types": merge, "merged_names": ["background", "nucleus"]}
    merged = open_annotations(name, root, **options)
    assert merged.class_names == ("background", "nucleus")
    for split, annotated in published.images.items():
        for expected in annotated:
            found, before = merged.read(split, expected.name), plain.read(split, expected.name)
            np.testing.assert_array_equal(found.type_map, np.asarray(before.type_map) > 0)
    with pytest.raises(ValueError, match="name every new type"):
        open_annotations(name, root, **{**options, "merged_names": ["background"]})
