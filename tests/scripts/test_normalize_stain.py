"""The script that normalises stain, as a user starts it: a folder with an image, a slide and a damaged file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dataloader.slides import open_slide
from tests.conftest import ROOT
from tests.slide_files import MPP, write_pyramid
from tests.stained import stain_image


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "normalize_stain.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    Image.fromarray(stain_image()).save(tmp_path / "in" / "image.jpg")
    write_pyramid(tmp_path / "in" / "slide.tif", stain_image(300, 452))
    (tmp_path / "in" / "damaged.svs").write_text("not a slide")
    return tmp_path


def test_a_folder_is_normalised_and_the_damaged_file_tells_in_the_exit_status(folder: Path) -> None:
    result = run(folder, "input=in", "output=out", "method=reinhard")
    assert result.returncode == 1
    assert "damaged: failed" in result.stdout and "Traceback" not in result.stderr
    written = {path.name for path in (folder / "out").iterdir()}
    for name in ("image.png", "slide.tif"):
        stem = Path(name).stem
        assert {name, f"{stem}.before_after.png", f"{stem}.stain.json"} <= written
    with open_slide(folder / "out" / "slide.tif") as slide:
        assert (slide.shape_level0, slide.mpp) == ((300, 452), pytest.approx(MPP))


def test_help_lists_every_setting() -> None:
    result = run(ROOT, "--help")
    assert result.returncode == 0
    for setting in ("input", "output", "method", "target", "mpp", "reader", "tissue", "quality", "overwrite"):
        assert f"\n  {setting}=" in result.stdout


def test_an_input_folder_that_is_the_output_folder_is_refused_in_one_line(folder: Path) -> None:
    result = run(folder, "input=in", "output=in")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "give another one" in result.stderr
