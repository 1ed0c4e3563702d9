"""Samples and their order follow from (seed, epoch, patch), whatever the workers do."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dataloader.augment import GeometrySettings
from dataloader.patch_dataset import EpochSampler, PatchDataset
from dataloader.patches import PatchSettings, PatchStore, prepare_store, write_patches
from tests.annotated import make_annotated

SETTINGS = PatchSettings(patch_size=32, patch_step=16, class_names=("background", "a", "b", "c", "d"))


def make_store(path: Path, num_images: int = 2, settings: PatchSettings = SETTINGS) -> PatchStore:
    images = [make_annotated(str(i), (40, 48), seed=i) for i in range(num_images)]
    prepare_store(path, settings, [image.name for image in images])
    write_patches(path, images)
    return PatchStore(path)


@pytest.fixture
def store(tmp_path: Path) -> PatchStore:
    return make_store(tmp_path / "s.zarr")


def collect(
    dataset: PatchDataset, num_workers: int, *, context: str | None = None, epoch: int = 0
) -> list[dict]:
    sampler = EpochSampler(len(dataset), 3, epoch=epoch)
    loader = DataLoader(
        dataset, batch_size=4, sampler=sampler, num_workers=num_workers, multiprocessing_context=context
    )
    return list(loader)


def assert_same_batches(one: list[dict], other: list[dict]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key])


def test_a_sample_has_the_shapes_and_dtypes_promised(store: PatchStore) -> None:
    sample = PatchDataset(store, 24, augment=GeometrySettings(), seed=1)[0]
    assert {key: (tuple(value.shape), value.dtype) for key, value in sample.items()} == {
        "image": ((24, 24, 3), torch.uint8),
        "label_map": ((24, 24), torch.int32),
        "type_map": ((24, 24), torch.uint8),
        "source": ((), torch.int64),
    }


def test_without_augmentation_the_centre_is_cut_out(store: PatchStore) -> None:
    sample = PatchDataset(store, 24)[5]
    patch = store.read(5)
    np.testing.assert_array_equal(sample["image"].numpy(), patch.image[4:28, 4:28])
    np.testing.assert_array_equal(sample["label_map"].numpy(), patch.label_map[4:28, 4:28])
    np.testing.assert_array_equal(sample["type_map"].numpy(), patch.type_map[4:28, 4:28])


def test_any_number_of_workers_gives_the_same_samples(store: PatchStore) -> None:
    dataset = PatchDataset(store, 24, augment=GeometrySettings(crop="random"), seed=1)
    alone = collect(dataset, 0)  # has read from the store before the workers fork
    assert_same_batches(alone, collect(dataset, 2))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_more_workers_than_patches_work(tmp_path: Path) -> None:
    dataset = PatchDataset(make_store(tmp_path / "s.zarr", 1, replace(SETTINGS, patch_step=32)), 24)
    assert len(dataset) == 4
    assert_same_batches(collect(dataset, 0), collect(dataset, 6))


@pytest.mark.slow
def test_spawned_workers_give_the_same_samples(store: PatchStore) -> None:
    dataset = PatchDataset(store, 24, augment=GeometrySettings(), seed=1)
    assert_same_batches(collect(dataset, 0), collect(dataset, 1, context="spawn"))


def test_a_dataset_that_was_read_can_be_pickled(store: PatchStore) -> None:
    dataset = PatchDataset(store, 24, augment=GeometrySettings(), seed=1)
    before = dataset[3]
    after = pickle.loads(pickle.dumps(dataset))[3]
    assert torch.equal(before["image"], after["image"])


def test_epochs_warp_the_same_patch_differently(store: PatchStore) -> None:
    dataset = PatchDataset(store, 24, augment=GeometrySettings(), seed=1)
    first, second = dataset[2], dataset[len(dataset) + 2]
    assert not torch.equal(first["image"], second["image"])
    assert torch.equal(first["image"], dataset[2]["image"])


def test_seeds_warp_the_same_patch_differently(store: PatchStore) -> None:
    one = PatchDataset(store, 24, augment=GeometrySettings(), seed=1)[2]
    two = PatchDataset(store, 24, augment=GeometrySettings(), seed=2)[2]
    assert not torch.equal(one["image"], two["image"])


def test_stores_stand_one_after_another(tmp_path: Path) -> None:
    one, two = make_store(tmp_path / "1.zarr", 1), make_store(tmp_path / "2.zarr", 2)
    both = PatchDataset([one, two], 32)
    assert len(both) == len(one) + len(two)
    for index in range(len(both)):
        patch = one.read(index) if index < len(one) else two.read(index - len(one))
        np.testing.assert_array_equal(both[index]["image"].numpy(), patch.image)


def test_pieces_are_split_after_the_warp(store: PatchStore) -> None:
    seen: list[tuple] = []

    def split(label_map: np.ndarray) -> np.ndarray:
        seen.append((label_map.shape, label_map.dtype))
        return label_map * 2

    plain = PatchDataset(store, 24, augment=GeometrySettings(), seed=1)[4]
    doubled = PatchDataset(store, 24, augment=GeometrySettings(), seed=1, split_pieces=split)[4]
    assert seen == [((24, 24), np.int32)]
    assert torch.equal(doubled["label_map"], plain["label_map"] * 2)


def test_a_store_without_types_gives_no_type_map(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", settings=replace(SETTINGS, class_names=()))
    for augment in (None, GeometrySettings()):
        assert PatchDataset(store, 24, augment=augment)[0].keys() == {"image", "label_map", "source"}


def test_stores_that_do_not_fit_each_other_are_refused(tmp_path: Path, store: PatchStore) -> None:
    other = make_store(tmp_path / "o.zarr", settings=replace(SETTINGS, mpp=0.5))
    with pytest.raises(ValueError, match="only stores with the same ones are read together"):
        PatchDataset([store, other], 24)


def test_an_input_larger_than_the_patches_is_refused(store: PatchStore) -> None:
    with pytest.raises(ValueError, match="input_size=33 does not fit into patches of 32 .* patch_size=33"):
        PatchDataset(store, 33)


def test_no_store_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one patch store"):
        PatchDataset([], 24)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_gives_every_patch_once(epoch: int) -> None:
    indices = list(EpochSampler(11, 3, epoch=epoch))
    assert sorted(indices) == list(range(epoch * 11, epoch * 11 + 11))


def test_epochs_and_seeds_differ_in_order() -> None:
    orders = {
        tuple(i % 50 for i in EpochSampler(50, seed, epoch=epoch)) for seed in (1, 2) for epoch in range(3)
    }
    assert len(orders) == 6


def test_an_epoch_resumes_from_any_position() -> None:
    whole = list(EpochSampler(11, 3, epoch=2))
    for start in range(12):
        resumed = EpochSampler(11, 3, epoch=2, start=start)
        assert list(resumed) == whole[start:]
        assert len(resumed) == 11 - start


def test_setting_the_epoch_equals_making_the_sampler_for_it() -> None:
    sampler = EpochSampler(11, 3, start=4)
    sampler.set_epoch(5)
    assert list(sampler) == list(EpochSampler(11, 3, epoch=5))


@pytest.mark.parametrize("start", [12, -1])
def test_positions_outside_the_epoch_are_refused(start: int) -> None:
    with pytest.raises(ValueError, match="must lie in 0"):
        EpochSampler(11, 3, start=start)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="extract patches first"):
        EpochSampler(0, 3)


def test_samples_of_several_stores_name_their_source_among_all(tmp_path: Path) -> None:
    stores = [make_store(tmp_path / "a.zarr", 2), make_store(tmp_path / "b.zarr", 3)]
    dataset = PatchDataset(stores, 24)
    sources = [int(dataset[index]["source"]) for index in range(len(dataset))]
    assert sources == sorted(sources) and set(sources) == set(range(5))
    assert dataset.stain_statistics("macenko") == [
        statistics for store in stores for statistics in store.stain_statistics("macenko")
    ]


WEIGHTS = np.array([0.2, 1.0, 1.0, 3.5, 0.3, 1.0])


def test_weighted_draws_follow_the_expected_frequencies() -> None:
    """Systematic draws: in each epoch the expected number rounded up or down, over many epochs that number."""
    expected = len(WEIGHTS) * WEIGHTS / WEIGHTS.sum()
    num_epochs = 4000
    counts = np.array(
        [
            np.bincount(np.array(list(EpochSampler(6, 3, epoch=epoch, weights=WEIGHTS))) % 6, minlength=6)
            for epoch in range(num_epochs)
        ]
    )
    assert (counts.sum(axis=1) == 6).all()
    assert ((counts == np.floor(expected)) | (counts == np.ceil(expected))).all()
    share = expected - np.floor(expected)
    error = 5 * np.sqrt(share * (1 - share) / num_epochs)  # five standard deviations
    assert (np.abs(counts.mean(axis=0) - expected) <= error).all()


def test_equal_weights_draw_every_patch_once() -> None:
    for epoch in range(20):
        drawn = list(EpochSampler(11, 3, epoch=epoch, weights=np.full(11, 0.1)))
        assert sorted(drawn) == list(range(epoch * 11, epoch * 11 + 11))


def test_a_patch_drawn_twice_is_warped_in_two_ways(store: PatchStore) -> None:
    weights = np.zeros(len(store))
    weights[2] = 1
    dataset = PatchDataset(store, 24, augment=GeometrySettings(), seed=1)
    drawn = list(EpochSampler(len(store), 3, weights=weights))
    assert len(set(drawn)) == len(store)
    assert {index % len(store) for index in drawn} == {2}
    assert not torch.equal(dataset[drawn[0]]["image"], dataset[drawn[1]]["image"])


def test_a_weighted_epoch_resumes_from_any_position() -> None:
    whole = list(EpochSampler(6, 3, epoch=2, weights=WEIGHTS))
    for start in range(len(whole) + 1):
        assert list(EpochSampler(6, 3, epoch=2, start=start, weights=WEIGHTS)) == whole[start:]


def test_any_number_of_workers_gives_the_same_weighted_samples(store: PatchStore) -> None:
    dataset = PatchDataset(store, 24, augment=GeometrySettings(), seed=1)
    weights = np.arange(1, len(store) + 1)
    batches = [
        list(
            DataLoader(
                dataset,
                batch_size=4,
                num_workers=workers,
                sampler=EpochSampler(len(store), 3, weights=weights),
            )
        )
        for workers in (0, 2)
    ]
    assert_same_batches(*batches)


@pytest.mark.parametrize("weights", [np.ones(5), np.zeros(6), -np.ones(6), np.full(6, np.nan)])
def test_weights_that_cannot_be_drawn_by_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one a patch of 6"):
        EpochSampler(6, 3, weights=weights)


def test_type_counts_of_stores_stand_one_after_another(tmp_path: Path) -> None:
    one, two = make_store(tmp_path / "1.zarr", 1), make_store(tmp_path / "2.zarr", 2)
    counts = PatchDataset([one, two], 24).type_pixels()
    np.testing.assert_array_equal(counts, np.concatenate([one.type_pixels(), two.type_pixels()]))
