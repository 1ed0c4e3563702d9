"""A folder of images: every one is done, skipped or failed, and nothing is lost to a broken neighbour."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from config.schema import InferSettings
from run_utils.inference.batch_run import infer_all
from run_utils.inputs import find_images
from run_utils.outputs import WRITERS, output_path
from tests.drawing import draw_pairs, paint_tissue


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    image = paint_tissue(draw_pairs((96, 120)))
    Image.fromarray(image).save(folder / "rgb.png")
    Image.fromarray(image).convert("L").save(folder / "grey.jpg")
    Image.fromarray(image).convert("RGBA").save(folder / "rgba.png")
    cv2.imwrite(str(folder / "deep.png"), image.astype(np.uint16) * 257)
    Image.fromarray(image[:1, :1]).save(folder / "dot.png")
    Image.fromarray(np.tile(image[:20], (30, 1, 1))).save(folder / "strip.tif")
    return folder


def settings(images: Path, checkpoint: Path, output: Path, **changes: object) -> InferSettings:
    return InferSettings(
        input=str(images), output=str(output), checkpoint=str(checkpoint), device="cpu", **changes
    )


def test_every_kind_of_image_gets_every_output(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    names = list(WRITERS)
    assert infer_all(settings(images, checkpoint, tmp_path / "out", outputs=names)) == 0
    for image in images.iterdir():
        for name in names:
            assert output_path(tmp_path / "out", image.stem, name).is_file(), (image, name)


def test_a_broken_file_is_named_and_the_rest_goes_on(
    images: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (images / "rgb.png").read_bytes()
    (images / "cut.png").write_bytes(content[: len(content) // 2])
    (images / "text.svs").write_text("not a slide")
    assert infer_all(settings(images, checkpoint, tmp_path / "out", outputs=["npy"])) == 1
    printed = capsys.readouterr().out
    assert "cut: failed" in printed
    assert "text: failed" in printed
    assert output_path(tmp_path / "out", "rgb", "npy").is_file()
    assert not output_path(tmp_path / "out", "cut", "npy").exists()


def test_a_second_run_skips_what_is_done_and_overwrite_does_it_anew(
    images: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = settings(images / "rgb.png", checkpoint, tmp_path / "out", outputs=["npy"])
    assert infer_all(chosen) == 0
    assert infer_all(chosen) == 0
    assert "rgb: skipped" in capsys.readouterr().out
    chosen.overwrite = True
    path = output_path(tmp_path / "out", "rgb", "npy")
    before = path.stat().st_mtime_ns
    assert infer_all(chosen) == 0
    assert path.stat().st_mtime_ns > before


def test_ids_and_counts_are_equal_in_every_output(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    chosen = settings(
        images / "rgb.png", checkpoint, tmp_path / "out", outputs=["json", "npy", "mat"], nuclei_threshold=0.4
    )
    assert infer_all(chosen) == 0
    label_map = np.load(output_path(tmp_path / "out", "rgb", "npy"))
    listed = json.loads(output_path(tmp_path / "out", "rgb", "json").read_text())["nuc"]
    assert sorted(int(key) for key in listed) == list(range(1, label_map.max() + 1))


def test_an_image_of_another_resolution_is_resampled(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    chosen = settings(images / "rgb.png", checkpoint, tmp_path / "out", outputs=["npy"], mpp=0.5)
    assert infer_all(chosen) == 0
    assert np.load(output_path(tmp_path / "out", "rgb", "npy")).shape == (192, 240)


def test_results_of_other_settings_are_never_mixed(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    chosen = settings(images / "rgb.png", checkpoint, tmp_path / "out", outputs=["npy"])
    assert infer_all(chosen) == 0
    chosen.nuclei_threshold = 0.6
    with pytest.raises(ValueError, match=r"nuclei_threshold was 0.0, is 0.6"):
        infer_all(chosen)
    chosen.overwrite = True
    assert infer_all(chosen) == 0


def test_an_unknown_output_lists_the_known(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="json, mat, overlay"):
        infer_all(settings(images, checkpoint, tmp_path / "out", outputs=["pdf"]))


def test_an_empty_folder_and_a_missing_path_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no image"):
        find_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_images(tmp_path / "nowhere")


def test_images_of_one_stem_keep_their_endings_in_their_names(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "b.png"):
        (tmp_path / name).touch()
    assert list(find_images(tmp_path)) == ["a.png", "a.tif", "b"]


def test_files_that_would_share_a_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.svs", "a.tif", "a.svs.tif"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="rename one of them"):
        find_images(tmp_path)
