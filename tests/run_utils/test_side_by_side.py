"""Small images are worked on side by side: the outputs of one after another, within bounds, and soon ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from config.schema import InferSettings
from run_utils.build_inference import build_plan, build_predictor, resolved_facts
from run_utils.inference import batch_run, slide_run
from run_utils.inference.manifest import Manifest
from run_utils.inference.monitor import Monitor
from run_utils.inference.side_by_side import run_all
from run_utils.inference.slide_run import SlideRunner
from run_utils.inference.status import DONE, SlideStatus
from run_utils.outputs import SlideResult, output_path
from tests.drawing import draw_pairs, paint_tissue

OUTPUTS = ["json", "geojson", "npy", "thumb"]
LIMIT_S = 60.0


class Watched:
    """Stands in for a runner: says how many regions are held at once, and by which threads."""

    def __init__(self, sizes: Mapping[str, float], together: int) -> None:
        self.sizes = sizes
        self.most_held = 0.0
        self.alone: list[str] = []
        self._held = 0.0
        self._lock = threading.Lock()
        self._met = threading.Barrier(together)

    def count_regions(self, path: Path) -> float:
        return self.sizes[path.name]

    def run(self, name: str, path: Path) -> SlideStatus:
        with self._lock:
            self._held += self.sizes[name]
            self.most_held = max(self.most_held, self._held)
        if threading.current_thread() is threading.main_thread():
            self.alone.append(name)
            assert self._held == self.sizes[name]
        else:
            self._met.wait(LIMIT_S)
        with self._lock:
            self._held -= self.sizes[name]
        return SlideStatus(name, DONE)

    def stop(self) -> None:
        raise AssertionError("nothing was to be stopped")


def test_small_images_share_the_room_and_a_large_one_has_it_alone() -> None:
    runner = Watched({"a": 1, "b": 2, "large": 99, "c": 2, "d": 1, "e": 1, "f": 2}, together=2)
    files = {name: Path(name) for name in runner.sizes}
    ended = [status.name for status in run_all(runner, files, 3)]  # type: ignore[arg-type]
    assert ended == list(files)
    assert runner.alone == ["large"]
    assert runner.most_held == 99
    runner.most_held = 0
    del files["large"]
    assert len(list(run_all(runner, files, 3))) == len(files)  # type: ignore[arg-type]
    assert runner.most_held == 3


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(7):
        image = paint_tissue(draw_pairs((96 + 8 * (number % 3), 120)))
        Image.fromarray(np.roll(image, 5 * number, axis=1)).save(folder / f"{number}.png")
    return folder


def settings(images: Path, checkpoint: Path, output: Path) -> InferSettings:
    return InferSettings(
        input=str(images), output=str(output), checkpoint=str(checkpoint), outputs=OUTPUTS, device="cpu"
    )


def test_outputs_are_those_of_one_image_after_another(
    images: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert batch_run.infer_all(settings(images, checkpoint, tmp_path / "together")) == 0
    monkeypatch.setattr(batch_run, "run_all", lambda runner, files, _: run_all(runner, files, 1))
    assert batch_run.infer_all(settings(images, checkpoint, tmp_path / "alone")) == 0
    for image in images.iterdir():
        for name in OUTPUTS:
            paths = [output_path(tmp_path / way, image.stem, name) for way in ("together", "alone")]
            assert paths[0].read_bytes() == paths[1].read_bytes(), (image, name)


def make_runner(chosen: InferSettings) -> SlideRunner:
    monitor = Monitor(has_bar=False)
    predictor = build_predictor(chosen, monitor)
    plan = replace(build_plan(chosen, predictor), decode_workers=2)
    manifest = Manifest(Path(chosen.output), chosen)
    facts = resolved_facts(chosen, predictor, plan)
    return SlideRunner(chosen, predictor, plan, manifest, None, facts, monitor)


def test_an_interruption_ends_images_unfinished_and_the_next_run_does_them(
    images: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(images, checkpoint, tmp_path / "out")
    runner = make_runner(chosen)
    files = {path.stem: path for path in sorted(images.iterdir())}
    is_stopped = threading.Event()
    stop, stream = runner.monitor.stop, slide_run.stream_slide

    def stop_and_say() -> None:
        stop()
        is_stopped.set()

    def stream_late(result: SlideResult, *arguments: Any, **options: Any) -> Any:
        assert result.name == "0" or is_stopped.wait(LIMIT_S)
        return stream(result, *arguments, **options)

    monkeypatch.setattr(runner.monitor, "stop", stop_and_say)
    monkeypatch.setattr(slide_run, "stream_slide", stream_late)
    with pytest.raises(KeyboardInterrupt), closing(run_all(runner, files, 4)) as ended:
        assert next(ended).status == DONE
        raise KeyboardInterrupt
    runner.manifest.close(is_complete=False)
    assert set(json.loads((tmp_path / "out" / "run.json").read_text())["slides"]) == {"0"}
    assert batch_run.infer_all(chosen) == 0
    statuses = json.loads((tmp_path / "out" / "run.json").read_text())["slides"]
    assert set(statuses) == set(files) and {status["status"] for status in statuses.values()} == {DONE}
    assert not (tmp_path / "out" / ".unfinished").exists()
