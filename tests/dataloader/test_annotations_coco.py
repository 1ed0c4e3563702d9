"""COCO's polygons and run lengths become nuclei, and what cannot be read is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataloader.annotations import open_annotations
from dataloader.annotations.run_lengths import decode_runs, unpack
from tests.published.outlined import find_runs, pack, publish_coco


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish_coco(tmp_path)
    return tmp_path


def change(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_text_that_pycocotools_wrote_is_unpacked() -> None:
    mask = np.zeros((40, 50), bool)
    mask[3:9, 4:30] = True
    mask[20:39, 10:12] = True
    text = "S56R100000000000YO=IC7=ICn0000000000000000000000000000000000mh0"  # pycocotools 2.0
    np.testing.assert_array_equal(decode_runs({"size": [40, 50], "counts": text}, (40, 50)), mask)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_come_back_as_they_were_packed(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 90, 2)) < share
    runs = find_runs(mask)
    assert unpack(pack(runs)) == runs
    for counts in (runs, pack(runs)):
        segmentation = {"size": list(mask.shape), "counts": counts}
        np.testing.assert_array_equal(decode_runs(segmentation, mask.shape), mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [40, 50], "counts": [3, 4]}, "run lengths that cover 7 of 40 x 50 pixels"),
        ({"size": [40, 50], "counts": [2005, -5]}, "run lengths that are no list of numbers from 0 up"),
        ({"size": [40, 50], "counts": "S56R1000000000000YO=IC7=ICn00mh"}, "run lengths that cover|cut off"),
        ({"size": [40, 50], "counts": "S5 6"}, "run lengths with the character ' '"),
        ({"size": [40, 50], "counts": "S"}, "run lengths that are cut off"),
        ({"size": [9, 5], "counts": [45]}, r"run lengths of \(9, 5\) for an image of \(40, 50\)"),
        ({"size": [10**6, 10**8], "counts": [10**14]}, r"run lengths of \(1000000, 100000000\) for an image"),
        ({"size": None, "counts": [45]}, r"run lengths of size None; \[height, width\] is needed"),
        ([[1, 2, 3, 4]], "a polygon that is no list of x1, y1, x2"),
        ([[1, 2, 3, 4, 5, "six"]], "a polygon with values that are no numbers"),
        ([], "no segmentation"),
        (None, "no segmentation"),
    ],
)
def test_a_malformed_segmentation_is_named(root: Path, segmentation: Any, message: str) -> None:
    change(root, lambda content: content["annotations"][1].update(segmentation=segmentation))
    with pytest.raises(ValueError, match=message) as caught:
        open_annotations("coco", root, mpp=0.25).read("train", "a_2")
    assert "instances_train.json: annotation 1 has" in str(caught.value)


def test_the_types_are_the_categories_in_the_order_of_their_ids(root: Path) -> None:
    names = open_annotations("coco", root, mpp=0.25).class_names
    assert names == ("background", "tumour", "stroma", "immune", "other")


def test_another_order_of_types_can_be_given(root: Path) -> None:
    plain = open_annotations("coco", root, mpp=0.25).read("train", "a_2").type_map
    names = ("background", "other", "immune", "stroma", "tumour")
    turned = open_annotations("coco", root, mpp=0.25, class_names=names).read("train", "a_2").type_map
    np.testing.assert_array_equal(turned, np.where(plain > 0, 5 - plain, 0))


def test_a_category_beyond_the_class_list_is_refused(root: Path) -> None:
    with pytest.raises(
        ValueError, match="is of category '.*', which the types .* lack; add it to data.class_names"
    ):
        open_annotations("coco", root, mpp=0.25, class_names=("background", "tumour")).read("train", "a_2")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda c: c["annotations"][3].update(category_id=99),
            "annotation 3 has a category_id that is not among",
        ),
        (
            lambda c: c["images"][0].update(height=41),
            r"a_2.png is \(41, 50\) .height, width. there, but the file",
        ),
        (lambda c: c["annotations"][3].update(image_id=7), r"KeyError\(7\) is wrong or missing"),
        (lambda c: c.pop("categories"), r"KeyError\('categories'\) is wrong or missing"),
        (lambda c: c["images"].append(c["images"][0]), "two images are called 'a_2'"),
    ],
)
def test_a_malformed_file_is_named(
    root: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(root, edit)
    with pytest.raises(
        ValueError, match=f"instances_train.json: .*{message}|instances_train.json: {message}"
    ):
        open_annotations("coco", root, mpp=0.25).read("train", "a_2")


def test_an_image_that_is_missing_says_where_it_was_looked_for(root: Path) -> None:
    (root / "images" / "train" / "a_10.png").unlink()
    with pytest.raises(
        FileNotFoundError, match="no image 'a_10.png' beside it, in images/train, train or images"
    ):
        open_annotations("coco", root, mpp=0.25)


def test_a_nucleus_that_others_cover_is_named_in_the_log(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    everywhere = {"size": [40, 50], "counts": [0, 2000]}
    change(root, lambda content: content["annotations"][30].update(segmentation=everywhere))
    item = open_annotations("coco", root, mpp=0.25).read("train", "a_2")
    assert item.label_map.max() == 1
    assert "30 of 31 nuclei have no pixel: annotation 0, annotation 1" in caplog.text


@pytest.mark.parametrize("place", ["images.json", "train/_annotations.coco.json"])
def test_one_json_beside_its_images_is_found(root: Path, place: str) -> None:
    path = root / "images" / place
    path.write_text((root / "annotations" / "instances_train.json").read_text())
    if place == "images.json":
        path.rename(root / "images" / "train" / "images.json")
        adapter, split = open_annotations("coco", root / "images" / "train", mpp=0.25), "All"
    else:
        adapter, split = open_annotations("coco", root / "images", mpp=0.25), "train"
    assert adapter.list_splits() == [split]
    assert adapter.list_names(split) == ["a_2", "a_10"]
