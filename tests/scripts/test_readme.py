"""The README's commands, run in its order on a small drawn data set: what a newcomer would do first."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.drawing import write_tissue

# What makes each script finish within seconds; appended to the README's own arguments.
QUICK = {
    "extract_patches.py": ["patch_size=96", "patch_step=48", "data.num_validation=1"],
    "run_train.py": [
        "train.max_steps=2", "train.phases=[{epochs: 1, batch_size: 2}]", "train.input_size=64",
        "model.num_stages=3", "model.decoder_channels=[8]", "train.num_workers=0",
    ],
    "run_infer.py": ["regions=0,0,900,900"],
    "compute_stats.py": ["resamples=10"],
    "check_data.py": [],
    "tune.py": ["nuclei_thresholds=[0.5]", "marker_thresholds=[0.4]", "min_sizes=[10]", "min_areas=[0]"],
    "compare_runs.py": [],
    "normalize_stain.py": [],
    "export_model.py": [],
}  # fmt: skip


def readme_commands() -> list[str]:
    """Return every `python *.py …` line of the README's shell blocks, continuation lines joined."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"python \w+\.py ", line)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    write_tissue(folder / "CoNSeP", num_train=3, num_test=2, side=128)
    (folder / "samples").symlink_to(ROOT / "samples")
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    _, script, *arguments = shlex.split(command)
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments, *QUICK[script]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_commands_of_the_readme_work_in_their_order(workplace: Path) -> None:
    commands = readme_commands()
    assert {shlex.split(command)[1] for command in commands} == set(QUICK)
    for command in commands:
        result = run(command, workplace)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    assert list((workplace / "runs").glob("*/best.pt"))
    assert list(workplace.glob("outputs/**/stats.csv"))


@pytest.mark.slow
def test_extraction_run_twice_leaves_the_patches_as_they_are(workplace: Path, tmp_path: Path) -> None:
    command = f"python extract_patches.py data=consep data.root=CoNSeP data.patches={tmp_path}"
    assert run(command, workplace).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = run(command, workplace)
    assert again.returncode == 0
    assert "left as it is" in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_a_folder_without_images_ends_in_one_line(tmp_path: Path) -> None:
    result = run(f"python run_infer.py input={tmp_path} output={tmp_path / 'out'}", ROOT)
    assert result.returncode == 2
    assert "holds no image" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_readme_names_nothing_that_is_not_there() -> None:
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []
    assert "_TABLE" not in text
