"""The operator of the Clara document: its folders, its options, its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tifffile

from dataloader.slides import open_slide
from run_utils.operator import main
from tests.conftest import ROOT
from tests.drawing import draw_pairs, paint_tissue

RENDER_CONFIG = {"camera": {"zoom": 2}, "name": "a slide"}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    (tmp_path / "input").mkdir()
    image = paint_tissue(draw_pairs((400, 600)))
    tifffile.imwrite(
        tmp_path / "input" / "slide.tif",
        image,
        tile=(256, 256),
        photometric="rgb",
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
    )
    (tmp_path / "input" / "config_render.json").write_text(json.dumps(RENDER_CONFIG))
    return tmp_path


def run(folders: Path, *options: str) -> int:
    paths = ("--input-path", str(folders / "input"), "--output-path", str(folders / "output"))
    return main(["segmentation", *paths, *options])


def test_the_folder_of_the_document_becomes_its_outputs(folders: Path) -> None:
    assert run(folders, "-w", "1", "-t", "128", "-o", "48", "--mask-pixel-count-limit", "65536") == 0
    output = folders / "output"
    assert {"image.tif", "config.meta", "config_render.json"} <= {path.name for path in output.iterdir()}
    assert json.loads((output / "config_render.json").read_text()) == RENDER_CONFIG
    metadata = json.loads((output / "config.meta").read_text())
    assert metadata["um_per_pixel"] == pytest.approx(0.25)
    with open_slide(output / "image.tif") as image:
        assert image.shape_level0 == (400, 600)
        assert len(image.levels) == len(metadata["levels"]) > 1
    settings = json.loads((output / "nuclei" / "run.json").read_text())["settings"]
    assert (settings["window"], settings["overlap"], settings["mask_pixel_limit"]) == (128, 48, 65536)


def test_a_model_is_found_by_name_in_the_config_folder(folders: Path) -> None:
    (folders / "config").mkdir()
    shutil.copy(ROOT / "samples" / "hovernet_lite_consep.pt", folders / "config" / "mine.pt")
    assert run(folders, "--config-path", str(folders / "config"), "-m", "mine") == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config_render.json").unlink(), "config_render.json is missing"),
        (lambda folder: (folder / "config_render.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "slide.tif").unlink(), "holds no slide"),
        (lambda folder: shutil.copy(folder / "slide.tif", folder / "two.svs"), "holds 2 slides"),
        (lambda folder: shutil.rmtree(folder), "is not a folder"),
    ],
)
def test_a_folder_that_cannot_be_used_ends_in_one_line(folders: Path, change, message: str, capsys) -> None:
    change(folders / "input")
    assert run(folders) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_unknown_model_says_where_it_was_looked_for(folders: Path, capsys) -> None:
    assert run(folders, "-m", "segmentation_unet_nuclei") == 2
    assert "looked for" in capsys.readouterr().err


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["tile"])
    assert exit_info.value.code == 2
