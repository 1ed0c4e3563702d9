"""Print how long a 1000² image takes with the published windows in fp32, and here: ``python -m benchmarks.inference``.

Both sides have the same weights and run in a process of their own. What counts is the image: reading, network,
decoding and writing, without starting Python, loading weights and building the predictor. HoVerNet finds nothing:
its weights are random, since the published ones are not ours to ship.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import torch

from benchmarks.figures import Figure, state
from benchmarks.untrained import untrained_hovernet
from dataloader.slides import open_slide
from models.hovernet.checkpoint import load_checkpoint, save_checkpoint
from run_utils.inference.pipeline import infer_image
from run_utils.inference.plan import Plan
from run_utils.inference.torch_predictor import TorchPredictor

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "samples" / "CMU-1-Small-Region.svs"
LITE = ROOT / "samples" / "hovernet_lite_consep.pt"
SIDE = 1000  # px
CORNER = (700, 300)  # of the sample, level-0 px, where there is tissue
ASKED = {"original": 8.0, "fast": 4.0}  # times the published windows
LITE_SECONDS = 1.0


def main() -> None:
    """Measure the networks asked for, the lite one's side `--repeats` times, what takes long once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["lite", "fast", "original"])
    parser.add_argument("--predictor", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--published", nargs=2, metavar=("CHECKPOINT", "IMAGE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.published:
        print(published_seconds(*map(Path, arguments.published)))
        return
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.png"
        with open_slide(SAMPLE) as slide:
            rgb = slide.read((*CORNER, CORNER[0] + SIDE, CORNER[1] + SIDE), None)
        cv2.imwrite(str(image), rgb[..., ::-1])
        for name in arguments.networks:
            repeats = arguments.repeats if name == "lite" else 1
            measure(name, image, Path(folder), arguments.predictor, repeats)


def measure(name: str, image: Path, folder: Path, predictor: str, repeats: int) -> None:
    """State the figure of one network."""
    checkpoint = LITE
    if name != "lite":
        checkpoint = folder / f"{name}.pt"
        save_checkpoint(untrained_hovernet(name), checkpoint)
    ours = []
    for number in range(repeats):
        output = folder / f"{name}-{number}"
        command = ["run_infer.py", f"input={image}", f"output={output}", f"checkpoint={checkpoint}"]
        command += ["outputs=[json]", f"predictor={predictor}"]
        _run(command)
        (status,) = json.loads((output / "run.json").read_text())["slides"].values()
        ours.append(status["seconds"])
    published = float(_run(["-m", "benchmarks.inference", "--published", str(checkpoint), str(image)]))
    asked = f"at most {LITE_SECONDS:g} s" if name == "lite" else f"at least {ASKED[name]:g} times"
    what = f"a {SIDE}² image, {name}, predictor={predictor}"
    way = "256 px windows, fp32 eager" if name == "lite" else "published windows, fp32 eager"
    state(Figure(what, statistics.median(ours), "s", published, way, asked=asked))


def published_seconds(checkpoint: Path, image: Path) -> float:
    """Return the seconds of an image in windows as published: fp32, no layers fused, one batch after another."""
    network = load_checkpoint(checkpoint)
    predictor = TorchPredictor(network, torch.device("cpu"), torch.float32)
    plan = Plan(window=network.geometry.published, batch_size=4, is_exact=True)
    start = time.perf_counter()
    with open_slide(image) as slide:
        infer_image(lambda box: slide.read(box, None), slide.shape_level0, predictor, plan)
    return time.perf_counter() - start


def _run(arguments: list[str]) -> str:
    finished = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {finished.returncode}: {finished.stderr[-2000:]}")
    return finished.stdout


if __name__ == "__main__":
    main()
