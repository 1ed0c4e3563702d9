"""The doctor finds every fault that a test puts into a data set, names its file, and tells by its exit status."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from config.schema import CheckSettings, DataSettings
from dataloader.annotations import AnnotatedImage
from models.hovernet.targets import split_pieces
from run_utils.doctor import check_data
from run_utils.doctor.complaints import KINDS
from run_utils.doctor.inspection import Rules, inspect_image
from tests.annotated import make_annotated, write_consep

RULES = Rules(num_types=5, min_area=10, max_area=100)
Change = Callable[[AnnotatedImage], AnnotatedImage]


class Checked:
    """What a check of a folder in CoNSeP's layout gave: exit status, report, and what it printed."""

    def __init__(self, root: Path, printed: Callable[[], str], **settings: Any) -> None:
        data = DataSettings(adapter="consep", root=str(root), types=settings.pop("types", "merged"))
        self.output_dir = root.parent / "check"
        values = {"max_area_um2": 100 * 0.25**2, "workers": 2, **settings}
        self.status = check_data(CheckSettings(data=data, output=str(self.output_dir), **values))
        self.text = printed()
        self.report = json.loads((self.output_dir / "report.json").read_text())

    @property
    def complaints(self) -> list[dict[str, Any]]:
        return self.report["complaints"]

    @property
    def kinds(self) -> list[str]:
        return [complaint["kind"] for complaint in self.complaints]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Checked]:
    def run(**settings: Any) -> Checked:
        return Checked(tmp_path / "consep", lambda: capsys.readouterr().out, **settings)

    return run


def make_smooth(name: str, seed: int, shape: tuple[int, int] = (80, 96)) -> AnnotatedImage:
    """Return an annotated image of blurred noise, which keeps its looks when it is compressed."""
    noise = np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 6)
    image = np.clip(128 + 60 * blurred / blurred.std(), 0, 255).astype(np.uint8)
    return replace(make_annotated(name, shape, seed=seed), image=image)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set without fault: three images to train on, two to test on."""
    write_consep(tmp_path / "consep", "Train", [make_smooth(f"train_{n}", n) for n in (1, 2, 3)])
    write_consep(tmp_path / "consep", "Test", [make_smooth(f"test_{n}", 10 + n) for n in (1, 2)])
    return tmp_path / "consep"


def rewrite(root: Path, split: str, image: AnnotatedImage, change: Change) -> None:
    write_consep(root, split, [change(image)])


def test_a_sound_data_set_has_no_complaint_and_exits_with_zero(root: Path, check) -> None:
    checked = check()
    assert checked.status == 0
    assert checked.complaints == []
    assert "0 errors, 0 warnings" in checked.text


def test_the_table_counts_images_nuclei_types_areas_and_densities(root: Path, check) -> None:
    checked = check()
    train = checked.report["splits"]["Train"]
    label_map = make_smooth("", 1).label_map
    per_image = int(label_map.max())
    types = 1 + np.arange(1, per_image + 1) % 4
    names = ("miscellaneous", "inflammatory", "epithelial", "spindle-shaped")
    assert (train["num_images"], train["num_nuclei"], train["mpp"]) == (3, 3 * per_image, 0.25)
    for number, name in enumerate(names, start=1):
        assert train["nuclei"][name] == 3 * np.count_nonzero(types == number)
        assert train["pixels"][name] == 3 * 25 * np.count_nonzero(types == number)
        assert train["images_with"][name] == 3
    assert set(train["area_um2"]["all"].values()) == {25 * 0.25**2}
    mm2 = label_map.size * (0.25e-3) ** 2
    assert train["density_per_mm2"]["50%"] == pytest.approx(per_image / mm2)
    assert train["nuclei_per_image"]["mean"] == per_image
    assert f"{3 * per_image}" in checked.text and "80 x 96" in checked.text


def test_sheets_and_histograms_are_written_for_every_split(root: Path, check) -> None:
    checked = check()
    assert {path.name for path in checked.output_dir.iterdir()} == {
        "contact_sheet_Test.png", "contact_sheet_Train.png", "histograms.png", "report.json",
    }  # fmt: skip
    for path in checked.output_dir.glob("*.png"):
        assert np.asarray(Image.open(path)).std() > 5


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def halve_labels(image: AnnotatedImage) -> AnnotatedImage:
    return replace(image, label_map=image.label_map[:40])


def make_negative(image: AnnotatedImage) -> AnnotatedImage:
    return replace(image, label_map=np.where(image.label_map == 1, -1, image.label_map))


def make_fractional(image: AnnotatedImage) -> AnnotatedImage:
    return replace(image, label_map=image.label_map + 0.5)


def type_beyond(image: AnnotatedImage) -> AnnotatedImage:
    return replace(image, type_map=image.type_map + np.uint8(9) * (image.label_map == 2))


REFUSED: list[tuple[str, Callable[[Path], None], str]] = [
    ("image", lambda root: truncate(root / "Train/Images/train_2.png"), "train_2.png"),
    ("labels", lambda root: truncate(root / "Train/Labels/train_2.mat"), "train_2.mat"),
    ("missing labels", lambda root: (root / "Train/Labels/train_2.mat").unlink(), "add the file or remove"),
    ("no image", lambda root: (root / "Train/Images/train_2.png").write_text("text"), "train_2.png"),
    *(
        (name, lambda root, c=change: rewrite(root, "Train", make_smooth("train_2", 2), c), message)
        for name, change, message in (
            ("sizes", halve_labels, "same height and width"),
            ("negative ids", make_negative, "ids and types start at 0"),
            ("fractional ids", make_fractional, "not whole numbers"),
            ("type", type_beyond, "holds type 1"),
        )
    ),
]


@pytest.mark.parametrize("types", ["merged", "auto"])
@pytest.mark.parametrize(
    ("breakage", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_broken_file_is_an_error_with_its_path_and_stops_no_other(
    root: Path, check, types: str, breakage: Callable[[Path], None], message: str
) -> None:
    breakage(root)
    checked = check(types=types)
    assert checked.status == 1
    (complaint,) = checked.complaints
    assert (complaint["severity"], complaint["kind"]) == ("error", "unreadable")
    assert (complaint["split"], complaint["image"]) == ("Train", "train_2")
    assert message in complaint["detail"] and "train_2" in complaint["detail"]
    assert complaint["remedy"]
    splits = checked.report["splits"]
    assert (splits["Train"]["num_listed"], splits["Train"]["num_images"]) == (3, 2)
    assert splits["Test"]["num_images"] == 2
    assert "2 of 3" in checked.text and "1 errors, 0 warnings" in checked.text


def remove_nuclei(image: AnnotatedImage) -> AnnotatedImage:
    return replace(image, label_map=0 * image.label_map, type_map=0 * image.type_map)


def shrink_nucleus(image: AnnotatedImage) -> AnnotatedImage:
    labels, types = image.label_map.copy(), image.type_map.copy()
    ys, xs = np.nonzero(labels == 7)
    labels[ys[3:], xs[3:]] = types[ys[3:], xs[3:]] = 0
    return replace(image, label_map=labels, type_map=types)


def grow_nucleus(image: AnnotatedImage) -> AnnotatedImage:
    labels, types = image.label_map.copy(), image.type_map.copy()
    labels[40:60, 40:60], types[40:60, 40:60] = 7, 4
    return replace(image, label_map=labels, type_map=np.where(labels == 7, 4, types).astype(np.uint8))


def join_ids(image: AnnotatedImage) -> AnnotatedImage:
    is_joined = np.isin(image.label_map, (4, 8))
    return replace(
        image,
        label_map=np.where(is_joined, 4, image.label_map),
        type_map=np.where(is_joined, 1, image.type_map).astype(np.uint8),
    )


def remove_type(image: AnnotatedImage) -> AnnotatedImage:
    return replace(image, type_map=np.where(image.label_map == 3, 0, image.type_map).astype(np.uint8))


def mix_types(image: AnnotatedImage) -> AnnotatedImage:
    types = image.type_map.copy()
    ys, xs = np.nonzero(image.label_map == 3)
    types[ys[:5], xs[:5]] = 1 + types[ys[0], xs[0]] % 4
    return replace(image, type_map=types)


def type_background(image: AnnotatedImage) -> AnnotatedImage:
    types = image.type_map.copy()
    types[0, :3] = 2
    return replace(image, type_map=types)


def paint_white(image: AnnotatedImage) -> AnnotatedImage:
    return replace(image, image=np.full_like(image.image, 255))


WARNED: list[tuple[str, Change, str]] = [
    ("empty", remove_nuclei, "no nucleus is annotated"),
    ("tiny", shrink_nucleus, "1 nucleus below 10 px: id 7 (3 px)"),
    ("giant", grow_nucleus, "1 nucleus above 100 px: id 7 (4"),
    ("pieces", join_ids, "1 nucleus: id 4 (2 pieces)"),
    ("untyped", remove_type, "1 nucleus: ids 3"),
    ("mixed", mix_types, "1 nucleus: id 3 (2 types)"),
    ("stray_types", type_background, "3 px have a type and no nucleus"),
    ("blank", paint_white, "all pixels lie in 255..255"),
]


@pytest.mark.parametrize(("kind", "change", "message"), WARNED, ids=[row[0] for row in WARNED])
def test_a_doubtful_image_is_a_warning_with_files_and_remedy(
    root: Path, check, kind: str, change: Change, message: str
) -> None:
    rewrite(root, "Train", make_smooth("train_2", 2), change)
    checked = check()
    assert checked.status == 0
    complaint = next(c for c in checked.complaints if c["kind"] == kind)
    assert complaint["severity"] == "warning"
    assert message in complaint["detail"]
    assert complaint["files"] == ["Train/Images/train_2.png", "Train/Labels/train_2.mat"]
    assert complaint["remedy"] == KINDS[kind].remedy
    assert KINDS[kind].remedy in checked.text and "Train/Labels/train_2.mat" in checked.text
    assert all(c["image"] == "train_2" for c in checked.complaints)


def test_a_type_that_no_nucleus_of_a_split_has_is_a_warning(root: Path, check) -> None:
    for number in (1, 2):
        image = make_smooth(f"test_{number}", 10 + number)
        types = np.where(image.type_map == 3, 4, image.type_map).astype(np.uint8)
        write_consep(root, "Test", [replace(image, type_map=types)])
    checked = check()
    assert checked.status == 0
    assert [(c["kind"], c["split"], c["detail"]) for c in checked.complaints] == [
        ("absent_type", "Test", "epithelial")
    ]


def compress(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)


def brighten(image: np.ndarray) -> np.ndarray:
    return np.clip(image.astype(np.int16) + 12, 0, 255).astype(np.uint8)


def test_the_same_pixels_in_two_splits_are_an_error(root: Path, check) -> None:
    write_consep(root, "Test", [replace(make_smooth("train_2", 2), name="test_1")])
    checked = check()
    assert checked.status == 1
    assert checked.kinds == ["same_pixels"]
    (complaint,) = checked.complaints
    assert (complaint["split"], complaint["image"]) == ("Train", "train_2")
    assert complaint["detail"] == "has every pixel of Test/test_1"


def test_the_same_pixels_twice_in_a_split_are_a_warning(root: Path, check) -> None:
    write_consep(root, "Train", [replace(make_smooth("train_2", 2), name="train_4")])
    checked = check()
    assert (checked.status, checked.kinds) == (0, ["repeated"])


def test_one_name_in_two_splits_is_a_warning(root: Path, check) -> None:
    write_consep(root, "Test", [make_smooth("train_2", 50)])
    checked = check()
    assert (checked.status, checked.kinds) == (0, ["same_name"])


@pytest.mark.parametrize(
    "alter",
    [compress, brighten, np.rot90, np.fliplr, lambda image: np.rot90(image, 3)[::-1]],
    ids=["compressed", "brighter", "turned", "mirrored", "turned and mirrored"],
)
def test_a_copy_that_was_altered_is_a_near_duplicate(root: Path, check, alter) -> None:
    original = make_smooth("train_2", 2, (96, 96))
    write_consep(root, "Train", [original])
    altered = np.ascontiguousarray(alter(original.image))
    write_consep(root, "Test", [replace(make_smooth("test_1", 11, (96, 96)), image=altered)])
    checked = check()
    assert (checked.status, checked.kinds) == (0, ["near_duplicate"])
    assert check(near_duplicate=0).kinds == []


def test_images_that_show_nothing_are_not_taken_for_copies(root: Path, check) -> None:
    glass = np.full((80, 96, 3), 240, np.uint8)
    glass[:, :8] = 200
    for split, name in (("Train", "train_2"), ("Test", "test_1")):
        noise = np.random.default_rng(len(name)).integers(0, 2, glass.shape, dtype=np.uint8)
        write_consep(root, split, [replace(make_smooth(name, 1), image=glass + noise)])
    assert check().kinds == []


def test_unrelated_images_of_many_looks_are_not_near_duplicates(root: Path, check) -> None:
    for split, first in (("Train", 100), ("Test", 200)):
        write_consep(root, split, [make_smooth(f"{split}_{n}", first + n) for n in range(60)])
    assert "near_duplicate" not in check(num_panels=0).kinds


def test_a_split_that_cannot_be_listed_does_not_hide_the_other(root: Path, check) -> None:
    for path in (root / "Test" / "Images").iterdir():
        path.unlink()
    checked = check()
    assert (checked.status, checked.kinds) == (1, ["split"])
    assert checked.report["splits"]["Train"]["num_images"] == 3


def test_a_folder_without_any_image_is_an_error(root: Path, check, tmp_path: Path) -> None:
    root.rename(tmp_path / "elsewhere")
    root.mkdir()
    assert (check().status, check().kinds) == (1, ["split"])


def test_an_adapter_that_stumbles_is_reported_and_stops_no_other(
    root: Path, check, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataloader.annotations.consep import ConsepAdapter

    read = ConsepAdapter.read

    def stumble(self: ConsepAdapter, split: str, name: str) -> AnnotatedImage:
        if name == "train_2":
            raise IndexError("out of range")
        return read(self, split, name)

    monkeypatch.setattr(ConsepAdapter, "read", stumble)
    checked = check()
    assert (checked.status, checked.kinds) == (1, ["unreadable"])
    assert checked.complaints[0]["detail"] == "IndexError: out of range"


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("dtype", {"image": np.zeros((40, 50, 3), np.float32)}),
        ("dtype", {"image": np.zeros((40, 50), np.uint8)}),
        ("dtype", {"label_map": np.zeros((40, 50), np.float64)}),
        ("sizes", {"label_map": np.zeros((40, 51), np.int32)}),
        ("sizes", {"type_map": np.zeros((41, 50), np.uint8)}),
        ("ids", {"label_map": np.full((40, 50), -3, np.int32)}),
        ("ids", {"label_map": np.full((40, 50), 10**6, np.int32)}),
        ("types", {"type_map": np.full((40, 50), 5, np.uint8)}),
        ("types", {"type_map": None}),
    ],
)
def test_arrays_that_cannot_be_worked_with_are_errors(kind: str, fault: dict[str, Any]) -> None:
    record, findings = inspect_image("Train", replace(make_annotated("1"), **fault), RULES)
    assert record is None
    assert kind in [finding.kind for finding in findings]
    assert all(KINDS[finding.kind].severity == "error" for finding in findings)


def test_the_printed_list_is_cut_and_the_report_is_whole(root: Path, check) -> None:
    write_consep(root, "Train", [remove_type(make_smooth(f"train_{n}", n)) for n in (1, 2, 3)])
    checked = check(num_shown=1)
    assert checked.kinds == ["untyped"] * 3
    assert "nuclei without a type (3)" in checked.text and "and 2 more, in the report" in checked.text


def test_any_number_of_workers_gives_one_report(root: Path, check) -> None:
    truncate(root / "Train/Labels/train_2.mat")
    reports = [check(workers=number).report for number in (1, 4)]
    for report in reports:
        del report["settings"]
    assert reports[0] == reports[1]


def test_data_without_types_is_checked_too(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    image = make_smooth("a", 1)
    Image.fromarray(image.image).save(tmp_path / "data/images/a.png")
    np.save(tmp_path / "data/labels/a.npy", image.label_map)
    data = DataSettings(adapter="folder", root=str(tmp_path / "data"), mpp=0.25)
    assert check_data(CheckSettings(data=data, output=str(tmp_path / "check"))) == 0
    report = json.loads((tmp_path / "check/report.json").read_text())
    assert report["splits"]["All"]["num_nuclei"] == image.label_map.max()
    assert report["complaints"] == []


def test_settings_that_cannot_be_right_are_refused() -> None:
    wrong: Sequence[dict[str, Any]] = (
        {"near_duplicate": 2},
        {"workers": 0},
        {"max_area_um2": 0},
        {"num_panels": -1},
    )
    for values in wrong:
        with pytest.raises(ValueError, match="="):
            CheckSettings(output="", **values)


def test_pieces_that_touch_at_a_corner_are_what_training_takes_apart() -> None:
    labels = np.zeros((40, 50), np.int32)
    labels[5:10, 5:10] = labels[10:15, 10:15] = 1
    labels[20:25, 20:25] = 2
    image = replace(make_annotated("1"), label_map=labels, type_map=(labels > 0).astype(np.uint8))
    _, findings = inspect_image("Train", image, RULES)
    assert split_pieces(labels).max() == 3
    assert [(f.kind, f.detail) for f in findings] == [("pieces", "1 nucleus: id 1 (2 pieces)")]
