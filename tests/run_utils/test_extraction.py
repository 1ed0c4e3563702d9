"""Extraction splits by image, resumes, leaves complete stores alone, and is small on real data."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataloader.annotations import AnnotatedImage, AnnotationAdapter, open_annotations
from dataloader.patches import PatchStore
from run_utils.extraction import StorePlan, export_images, extract_patches, plan_stores
from tests.annotated import make_annotated, write_consep


@pytest.fixture
def adapter(tmp_path: Path) -> AnnotationAdapter:
    root = tmp_path / "consep"
    write_consep(root, "Train", [make_annotated(f"train_{i}", seed=i) for i in range(1, 8)])
    write_consep(root, "Test", [make_annotated(f"test_{i}", seed=20 + i) for i in range(1, 3)])
    return open_annotations("consep", root)


def extract(adapter: AnnotationAdapter, output: Path, **settings: int) -> list[Path]:
    plans = plan_stores(adapter, ["Train", "Test"], num_validation=2)
    return extract_patches(adapter, output, plans, **{"patch_size": 24, "patch_step": 16, **settings})


def test_validation_takes_whole_images_from_train(adapter: AnnotationAdapter) -> None:
    plans = {plan.name: plan for plan in plan_stores(adapter, ["Train", "Test"], num_validation=2)}
    assert set(plans) == {"train", "validation", "test"}
    assert len(plans["validation"].image_names) == 2
    together = plans["train"].image_names + plans["validation"].image_names
    assert sorted(together) == adapter.list_names("Train")
    assert list(plans["test"].image_names) == adapter.list_names("Test")


def test_the_seed_alone_chooses_the_validation_images(adapter: AnnotationAdapter) -> None:
    def choose(seed: int) -> tuple[str, ...]:
        return plan_stores(adapter, ["Train"], num_validation=2, seed=seed)[0].image_names

    assert choose(1) == choose(1)
    assert len({choose(seed) for seed in range(10)}) > 1


def test_no_validation_images_make_no_validation_store(adapter: AnnotationAdapter) -> None:
    assert [plan.name for plan in plan_stores(adapter, ["Train"], num_validation=0)] == ["train"]


def test_a_validation_store_that_takes_all_images_is_refused(adapter: AnnotationAdapter) -> None:
    with pytest.raises(ValueError, match="num_validation=7 leaves none of the 7 images of Train"):
        plan_stores(adapter, ["Train"], num_validation=7)


def test_the_sources_come_back_from_the_stores(adapter: AnnotationAdapter, tmp_path: Path) -> None:
    paths = extract(adapter, tmp_path / "patches")
    assert sorted(path.name for path in paths) == ["test.zarr", "train.zarr", "validation.zarr"]
    store = PatchStore(tmp_path / "patches" / "test.zarr")
    assert store.class_names[3] == "epithelial" and store.mpp == 0.25
    for number, name in enumerate(store.source_names):
        source, original = store.read_source(number), adapter.read("Test", name)
        np.testing.assert_array_equal(source.image, original.image)
        np.testing.assert_array_equal(source.label_map, original.label_map)


def test_what_was_done_is_logged(
    adapter: AnnotationAdapter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        extract(adapter, tmp_path / "patches")
    num_nuclei = 2 * int(make_annotated("x").label_map.max())
    assert "images of Test: test_1, test_2" in caplog.text
    assert f"2 images, 24 patches, {num_nuclei} nuclei" in caplog.text


class DyingAdapter:
    """An adapter whose process is killed at its third image."""

    def __init__(self, adapter: AnnotationAdapter) -> None:
        self.adapter = adapter
        self.name, self.class_names, self.mpp = adapter.name, adapter.class_names, adapter.mpp
        self.num_reads = 0

    def list_names(self, split: str) -> list[str]:
        return self.adapter.list_names(split)

    def read(self, split: str, name: str) -> AnnotatedImage:
        self.num_reads += 1
        if self.num_reads == 3:
            raise KeyboardInterrupt
        return self.adapter.read(split, name)


def test_a_killed_extraction_goes_on_where_it_stopped(
    adapter: AnnotationAdapter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plans = [StorePlan("train", "Train", tuple(adapter.list_names("Train")))]
    with pytest.raises(KeyboardInterrupt):
        extract_patches(DyingAdapter(adapter), tmp_path / "broken", plans, patch_size=24, patch_step=16)
    with caplog.at_level(logging.INFO):
        broken = extract_patches(adapter, tmp_path / "broken", plans, patch_size=24, patch_step=16)[0]
    assert "keeping the patches of 2 images, 5 to go" in caplog.text
    whole = extract_patches(adapter, tmp_path / "whole", plans, patch_size=24, patch_step=16)[0]
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert sorted(path.relative_to(broken) for path in broken.rglob("*") if path.is_file()) == files
    for file in files:
        assert (broken / file).read_bytes() == (whole / file).read_bytes()


def test_a_complete_store_is_left_alone(
    adapter: AnnotationAdapter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "patches").rglob("*") if path.is_file()}

    extract(adapter, tmp_path / "patches")
    before = stamps()
    with caplog.at_level(logging.INFO):
        extract(adapter, tmp_path / "patches")
    assert stamps() == before
    assert "test.zarr: complete, left as it is" in caplog.text


def test_other_settings_are_refused_before_anything_is_written(
    adapter: AnnotationAdapter, tmp_path: Path
) -> None:
    extract(adapter, tmp_path / "patches")
    with pytest.raises(ValueError, match="made with patch_step=16, now 12 is asked for"):
        extract(adapter, tmp_path / "patches", patch_step=12)


def test_a_real_image_takes_less_than_an_eighth_of_the_references_patches(
    consep_dir: Path, tmp_path: Path
) -> None:
    adapter = open_annotations("consep", consep_dir, types="merged")
    path = extract_patches(adapter, tmp_path, [StorePlan("one", "Train", ("train_1",))])[0]
    store = PatchStore(path)
    num_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert len(store) == 16  # 4 x 4 central squares of 256 cover 1000 x 1000
    assert num_bytes * 8 <= len(store) * 540 * 540 * 5 * 4  # int32 RGB, label and type in .npy files
    source, original = store.read_source(0), adapter.read("Train", "train_1")
    np.testing.assert_array_equal(source.image, original.image)
    np.testing.assert_array_equal(source.label_map, original.label_map)
    np.testing.assert_array_equal(source.type_map, original.type_map)


def test_an_export_of_images_goes_on_where_it_stopped(
    adapter: AnnotationAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    folders = export_images(adapter, tmp_path / "out", ["Train", "Test"])
    assert folders == [tmp_path / "out/images/Train", tmp_path / "out/images/Test"]
    assert sorted(path.stem for path in folders[0].iterdir()) == adapter.list_names("Train")
    (folders[1] / "test_2.png").unlink()
    read: list[str] = []
    own = adapter.read
    monkeypatch.setattr(adapter, "read", lambda split, name: read.append(name) or own(split, name))
    with caplog.at_level(logging.INFO):
        export_images(adapter, tmp_path / "out", ["Train", "Test"])
    assert read == ["test_2"]
    assert "2 images, 1 of them written now, of 0.25 µm/px" in caplog.text
    found = np.asarray(Image.open(folders[1] / "test_2.png"))
    np.testing.assert_array_equal(found, own("Test", "test_2").image)


def test_an_image_whose_name_leads_elsewhere_is_not_exported(
    adapter: AnnotationAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "list_names", lambda split: ["../../test_1"])
    with pytest.raises(ValueError, match="'../../test_1' cannot name a file"):
        export_images(adapter, tmp_path / "out", ["Test"])
