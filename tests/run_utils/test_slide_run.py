"""A slide from file to outputs: what a kill, a full disk or a second run does to it, and what bad slides say."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from config.schema import InferSettings
from run_utils.inference import output_folder
from run_utils.inference.batch_run import infer_all
from run_utils.inference.journal import Journal
from run_utils.outputs import WRITERS, output_path
from tests.conftest import ROOT
from tests.drawing import draw_pairs, paint_tissue

SIDE = 900
OUTPUTS = ["json", "qupath", "npy"]
NAME = "slide"
SMALL = {
    "region_size": 128,
    "window": 352,
    "overlap": 1,
    "nuclei_threshold": 0.54,
    "predictor": "torch",  # an engine would start anew for every run
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A network this small waits for its threads more than it computes; and all runs compute alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / f"{NAME}.tif"
    write_slide(path, paint_tissue(draw_pairs((SIDE, SIDE))))
    return path


def write_slide(path: Path, image: np.ndarray, mpp: float | None = 0.25) -> None:
    resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression="deflate", **resolution)


def settings(slide: Path, checkpoint: Path, output: Path, **changes: object) -> InferSettings:
    values = {"outputs": OUTPUTS, "device": "cpu", "precision": "fp32", **SMALL, **changes}
    return InferSettings(input=str(slide), output=str(output), checkpoint=str(checkpoint), **values)


def command(chosen: InferSettings) -> list[str]:
    """Return the command line of settings."""
    outputs = f"outputs=[{','.join(chosen.outputs)}]"
    names = ("input", "output", "checkpoint", "device", "precision", *SMALL)
    return [sys.executable, "run_infer.py", outputs, *(f"{name}={getattr(chosen, name)}" for name in names)]


def start(chosen: InferSettings, journal: Path, num_bytes: int) -> subprocess.Popen:
    """Start a run, and return once its journal is longer than that."""
    process = subprocess.Popen(
        command(chosen),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size > num_bytes):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    return process


def contents(output: Path, name: str = NAME) -> dict[str, bytes]:
    return {kind: output_path(output, name, kind).read_bytes() for kind in OUTPUTS}


def manifest(output: Path) -> dict:
    return json.loads((output / "run.json").read_text())["slides"]


@pytest.fixture(scope="module")
def unbroken(slide: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run that nothing disturbs writes."""
    output = tmp_path_factory.mktemp("unbroken")
    assert infer_all(settings(slide, checkpoint, output)) == 0
    assert not (output / output_folder.UNFINISHED).exists()
    assert manifest(output)[NAME]["num_nuclei"] > 40
    return contents(output)


def test_two_devices_find_the_same_nuclei_as_one(
    slide: Path, checkpoint: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    assert infer_all(settings(slide, checkpoint, tmp_path, device="cpu,cpu")) == 0
    assert contents(tmp_path) == unbroken


@pytest.mark.parametrize("num_bytes", [1, 15_000])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_result(
    num_bytes: int, slide: Path, checkpoint: Path, unbroken: dict[str, bytes], tmp_path: Path, caplog
) -> None:
    chosen = settings(slide, checkpoint, tmp_path / "out")
    journal = tmp_path / "out" / output_folder.UNFINISHED / f"{NAME}.journal"
    process = start(chosen, journal, num_bytes)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal.exists()
    assert not any(output_path(tmp_path / "out", NAME, kind).exists() for kind in OUTPUTS)
    with caplog.at_level("INFO"):
        assert infer_all(chosen) == 0
    assert contents(tmp_path / "out") == unbroken
    assert not journal.parent.exists()
    if num_bytes > 1:
        assert "slide: goes on after" in caplog.text


def test_ctrl_c_ends_cleanly_and_a_later_run_goes_on(
    slide: Path, checkpoint: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    chosen = settings(slide, checkpoint, tmp_path / "out")
    journal = tmp_path / "out" / output_folder.UNFINISHED / f"{NAME}.journal"
    process = start(chosen, journal, num_bytes=5_000)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.rstrip().endswith("run_infer.py: interrupted; start the same command again to go on")
    assert "Traceback" not in error
    assert list(journal.parent.iterdir()) == [journal]
    assert infer_all(chosen) == 0
    assert contents(tmp_path / "out") == unbroken


def test_a_full_disk_fails_the_slide_and_a_later_run_goes_on(
    slide: Path, checkpoint: Path, unbroken: dict[str, bytes], tmp_path: Path, monkeypatch
) -> None:
    real, count = Journal.append, 0

    def append(journal: Journal, owned: object) -> None:
        nonlocal count
        count += 1
        if count > 9:
            raise OSError(28, "No space left on device")
        real(journal, owned)

    monkeypatch.setattr(Journal, "append", append)
    chosen = settings(slide, checkpoint, tmp_path / "out")
    assert infer_all(chosen) == 1
    entry = manifest(tmp_path / "out")[NAME]
    assert entry["status"] == "failed" and "No space left" in entry["reason"]
    assert not any(output_path(tmp_path / "out", NAME, kind).exists() for kind in OUTPUTS)
    monkeypatch.undo()
    assert infer_all(chosen) == 0
    assert contents(tmp_path / "out") == unbroken
    assert manifest(tmp_path / "out")[NAME]["status"] == "done"


def test_a_writer_that_fails_ends_the_slide_at_once(
    slide: Path, checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    def write(result: object, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setitem(WRITERS, "json", WRITERS["json"]._replace(write=write))
    regions = []
    real = Journal.append
    monkeypatch.setattr(Journal, "append", lambda *arguments: (regions.append(1), real(*arguments))[1])
    assert infer_all(settings(slide, checkpoint, tmp_path / "out")) == 1
    assert len(regions) < 40
    assert "No space left" in manifest(tmp_path / "out")[NAME]["reason"]


def test_a_slide_that_another_run_works_on_is_left_to_it(
    slide: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out" / output_folder.UNFINISHED
    folder.mkdir(parents=True)
    held = Journal(folder / f"{NAME}.journal", {})
    assert infer_all(settings(slide, checkpoint, tmp_path / "out")) == 0
    assert f"{NAME}: skipped: another run is working on it" in capsys.readouterr().out
    assert manifest(tmp_path / "out") == {}  # the other run writes down how it ended
    held.release()
    assert infer_all(settings(slide, checkpoint, tmp_path / "out")) == 0
    assert manifest(tmp_path / "out")[NAME]["status"] == "done"


def test_an_output_asked_for_later_is_added_without_touching_the_others(
    slide: Path, checkpoint: Path, tmp_path: Path
) -> None:
    chosen = settings(slide, checkpoint, tmp_path / "out", outputs=["json"])
    assert infer_all(chosen) == 0
    before = output_path(tmp_path / "out", NAME, "json").stat().st_mtime_ns
    chosen.outputs = ["json", "npy"]
    assert infer_all(chosen) == 0
    assert output_path(tmp_path / "out", NAME, "npy").exists()
    assert output_path(tmp_path / "out", NAME, "json").stat().st_mtime_ns == before


def test_a_slide_that_changed_is_not_resumed_from_the_old_one(
    slide: Path, checkpoint: Path, unbroken: dict[str, bytes], tmp_path: Path, monkeypatch
) -> None:
    copy = tmp_path / f"{NAME}.tif"
    write_slide(copy, np.full((SIDE, SIDE, 3), 200, np.uint8))
    chosen = settings(copy, checkpoint, tmp_path / "out")
    monkeypatch.setattr(Journal, "finish", lambda journal: (_ for _ in ()).throw(OSError(28, "full")))
    assert infer_all(chosen) == 1
    monkeypatch.undo()
    copy.write_bytes(slide.read_bytes())
    assert infer_all(chosen) == 0
    assert contents(tmp_path / "out") == unbroken


def blank(value: int) -> np.ndarray:
    return np.full((2200, 2200, 3), value, np.uint8)


@pytest.mark.parametrize(("value", "kind"), [(255, "white"), (0, "black"), (243, "glass")])
def test_a_slide_without_tissue_is_skipped_with_a_reason(
    value: int, kind: str, checkpoint: Path, tmp_path: Path
) -> None:
    write_slide(tmp_path / f"{kind}.tif", blank(value))
    assert infer_all(settings(tmp_path / f"{kind}.tif", checkpoint, tmp_path / "out")) == 0
    entry = manifest(tmp_path / "out")[kind]
    assert entry["status"] == "skipped" and entry["reason"].startswith("no tissue was found")


def test_a_slide_without_resolution_fails_with_the_flag_in_the_message(
    checkpoint: Path, tmp_path: Path
) -> None:
    write_slide(tmp_path / f"{NAME}.tif", blank(180), mpp=None)
    chosen = settings(tmp_path / f"{NAME}.tif", checkpoint, tmp_path / "out")
    assert infer_all(chosen) == 1
    assert "give mpp=" in manifest(tmp_path / "out")[NAME]["reason"]


def test_a_slide_smaller_than_a_window_is_predicted(checkpoint: Path, tmp_path: Path) -> None:
    write_slide(tmp_path / f"{NAME}.tif", paint_tissue(draw_pairs((60, 45))))
    assert infer_all(settings(tmp_path / f"{NAME}.tif", checkpoint, tmp_path / "out")) == 0
    assert np.load(output_path(tmp_path / "out", NAME, "npy")).shape == (60, 45)


def test_a_damaged_tile_fails_its_slide_and_the_next_one_is_done(
    slide: Path, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    damaged = bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as file:
        page = file.pages[0]
        start, size = page.dataoffsets[9], page.databytecounts[9]
    damaged[start : start + size] = bytes(size)
    (folder / "damaged.tif").write_bytes(damaged)
    (folder / f"{NAME}.tif").write_bytes(slide.read_bytes())
    assert infer_all(settings(folder, checkpoint, tmp_path / "out")) == 1
    slides = manifest(tmp_path / "out")
    assert slides["damaged"]["status"] == "failed" and "tile 9" in slides["damaged"]["reason"]
    assert slides[NAME]["status"] == "done"


def test_only_the_regions_asked_for_are_predicted(
    slide: Path, checkpoint: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    chosen = settings(slide, checkpoint, tmp_path / "out", regions="100,200,300,150")
    assert infer_all(chosen) == 0
    everywhere = np.array([row["centroid"] for row in json.loads(unbroken["json"])["nuc"].values()])
    found = json.loads(contents(tmp_path / "out")["json"])["nuc"].values()
    inside = ((everywhere + 0.5 > (100, 200)) & (everywhere + 0.5 < (400, 350))).all(1)
    assert len(found) == inside.sum() > 2


def test_a_mask_of_ones_own_says_where_to_look(slide: Path, checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    mask = np.zeros((90, 90), np.uint8)
    mask[20:40, 30:60] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / f"{NAME}.png")
    chosen = settings(slide, checkpoint, tmp_path / "out", mask=str(tmp_path / "masks"))
    assert infer_all(chosen) == 0
    rows = json.loads(contents(tmp_path / "out")["json"])["nuc"].values()
    centroids = np.array([row["centroid"] for row in rows])
    assert len(centroids) > 2
    assert (centroids >= (299, 199)).all() and (centroids < (601, 401)).all()


def test_outputs_that_hold_a_whole_image_are_refused_for_a_large_slide(
    slide: Path, checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("run_utils.inference.slide_run.WHOLE_PIXELS", SIDE * SIDE - 1)
    assert infer_all(settings(slide, checkpoint, tmp_path / "out")) == 1
    assert "leave them out: label, overlay and parquet" in manifest(tmp_path / "out")[NAME]["reason"]


def test_a_run_beside_one_of_other_settings_is_refused(slide: Path, checkpoint: Path, tmp_path: Path) -> None:
    from run_utils.inference.manifest import Manifest

    first = Manifest(tmp_path / "out", settings(slide, checkpoint, tmp_path / "out"))
    other = settings(slide, checkpoint, tmp_path / "out", min_size=20, overwrite=True)
    with pytest.raises(ValueError, match=r"a run of other settings \(min_size was 0, is 20\) is writing"):
        infer_all(other)
    first.close(is_complete=True)
    assert infer_all(other) == 0


def test_an_overwriting_run_that_was_killed_goes_on_without_mixing_results(
    slide: Path, checkpoint: Path, unbroken: dict[str, bytes], tmp_path: Path, monkeypatch
) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    names = ["a", "b", "c"]
    for name in names:
        (folder / f"{name}.tif").write_bytes(slide.read_bytes())
    chosen = settings(folder, checkpoint, tmp_path / "out", outputs=["json"])
    assert infer_all(chosen) == 0
    chosen.nuclei_threshold, chosen.overwrite = 0.538, True
    killed = KeyboardInterrupt
    real = Journal.finish
    finished: list[str] = []

    def finish(journal: Journal) -> None:
        if len(finished) == 1:
            raise killed
        finished.append(journal.path.stem)
        real(journal)

    monkeypatch.setattr(Journal, "finish", finish)
    with pytest.raises(killed):
        infer_all(chosen)
    monkeypatch.undo()
    assert {name: entry["status"] for name, entry in manifest(tmp_path / "out").items()} == {"a": "done"}
    before = output_path(tmp_path / "out", "a", "json").stat().st_mtime_ns
    chosen.overwrite = False
    assert infer_all(chosen) == 0
    assert output_path(tmp_path / "out", "a", "json").stat().st_mtime_ns == before
    found = [output_path(tmp_path / "out", name, "json").read_bytes() for name in names]
    assert found[0] == found[1] == found[2] != unbroken["json"]


def test_another_slide_of_the_same_name_is_not_taken_for_done(
    slide: Path, checkpoint: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    other = tmp_path / f"{NAME}.tif"
    write_slide(other, np.full((300, 300, 3), 200, np.uint8))
    assert infer_all(settings(other, checkpoint, tmp_path / "out")) == 0
    assert infer_all(settings(slide, checkpoint, tmp_path / "out")) == 0
    assert contents(tmp_path / "out") == unbroken


def test_a_run_killed_as_it_ended_is_done_without_predicting_again(
    slide: Path, checkpoint: Path, unbroken: dict[str, bytes], tmp_path: Path, monkeypatch
) -> None:
    chosen = settings(slide, checkpoint, tmp_path / "out")

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("run_utils.inference.manifest.Manifest.record", stop)
    with pytest.raises(KeyboardInterrupt):
        infer_all(chosen)
    monkeypatch.undo()
    assert output_path(tmp_path / "out", NAME, "json").exists()
    monkeypatch.setattr("run_utils.inference.maps.read_mirrored", stop)
    assert infer_all(chosen) == 0
    assert manifest(tmp_path / "out")[NAME]["num_nuclei"] > 40
    assert contents(tmp_path / "out") == unbroken
    assert not (tmp_path / "out" / output_folder.UNFINISHED).exists()


@pytest.mark.parametrize("content", ["[]", "{", '{"time": 1}'])
def test_a_record_that_is_none_is_named(content: str, slide: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is not the record of an inference run"):
        infer_all(settings(slide, checkpoint, tmp_path))


def test_a_folder_that_cannot_be_made_is_named(slide: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"output=.*cannot be written.*give another output="):
        infer_all(settings(slide, checkpoint, tmp_path / "file" / "out"))


@pytest.mark.gpu
def test_a_gpu_finds_the_nuclei_that_a_cpu_finds(slide: Path, checkpoint: Path, tmp_path: Path) -> None:
    found = []
    for device in (
        "cuda",
        "cpu",
    ):  # random weights give probabilities near the threshold: no rounding but fp32's
        chosen = settings(slide, checkpoint, tmp_path / device, device=device, batch_size=3)
        chosen.precision, chosen.maps = "fp32", "full"
        assert infer_all(chosen) == 0
        found.append(np.load(io.BytesIO(contents(tmp_path / device)["npy"])) > 0)
    here, there = found
    assert np.count_nonzero(here != there) < 0.01 * np.count_nonzero(there)
