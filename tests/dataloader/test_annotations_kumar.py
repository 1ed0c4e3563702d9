"""Kumar and CPM17 in HoVer-Net's preparation: what the contract of the adapters does not reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from dataloader.annotations import open_annotations
from dataloader.annotations.tcga_organs import ORGAN_OF_PATIENT, find_organ
from tests.published import PUBLISHED


def test_splits_for_training_come_first(tmp_path: Path) -> None:
    PUBLISHED["kumar"](tmp_path)
    assert open_annotations("kumar", tmp_path).list_splits() == ["train", "test_diff", "test_same"]


def test_an_image_without_labels_is_refused_by_name(tmp_path: Path) -> None:
    PUBLISHED["cpm17"](tmp_path)
    (tmp_path / "train" / "Labels" / "image_01.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"image_01.mat: no labels for image image_01.png"):
        open_annotations("cpm17", tmp_path).list_names("train")


def test_what_archives_bring_along_is_no_image(tmp_path: Path) -> None:
    PUBLISHED["cpm17"](tmp_path)
    (tmp_path / "train" / "Images" / "._image_00.png").write_bytes(b"Mac OS X")
    (tmp_path / "train" / "Images" / "Thumbs.db").write_bytes(b"Windows")
    assert open_annotations("cpm17", tmp_path).list_names("train") == ["image_00", "image_01"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"inst_map": np.ones((40, 49))}, r"inst_map is \(40, 49\), the image \(40, 50\)"),
        ({"inst_map": np.full((40, 50), -1)}, "inst_map holds -1"),
        ({"inst_map": np.full((40, 50), 0.5)}, "inst_map holds values that are not whole numbers"),
        ({"type_map": np.ones((40, 50))}, "has no 'inst_map'"),
    ],
)
def test_malformed_labels_name_file_and_fault(tmp_path: Path, labels: Any, message: str) -> None:
    PUBLISHED["cpm17"](tmp_path)
    savemat(tmp_path / "test" / "Labels" / "image_00.mat", labels)
    with pytest.raises(ValueError, match=f"image_00.mat.*{message}"):
        open_annotations("cpm17", tmp_path).read("test", "image_00")


def test_a_folder_of_something_else_is_told_what_it_should_hold(tmp_path: Path) -> None:
    adapter = open_annotations("kumar", tmp_path)
    assert adapter.list_splits() == []
    with pytest.raises(FileNotFoundError, match="none, it should hold a folder with Images and Labels"):
        adapter.list_names("train")


def test_organs_are_those_of_both_tables() -> None:
    assert len(ORGAN_OF_PATIENT) == 44
    training = [find_organ(name) for name in ("TCGA-NH-A8F7-01A-01-TS1", "TCGA-18-5592-01Z-00-DX1")]
    assert training == ["colon", "liver"]
    assert find_organ("image_00") == find_organ("TCGA-ZZ-0000-01Z-00-DX1") == ""
