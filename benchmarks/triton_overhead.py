"""What a Triton server costs over the direct path, both with ONNX Runtime: ``python -m benchmarks.triton_overhead``.

Server and client share this machine's CPUs, as the direct path's engine and pipeline do; runs alternate.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from tabulate import tabulate

from benchmarks.figures import Figure, state
from benchmarks.pyramid import write_pyramid
from benchmarks.scaling import TISSUE
from benchmarks.slide import MPP
from benchmarks.triton_server import TritonServer
from config.export import ExportSettings, TritonExportSettings
from config.schema import InferSettings
from config.triton import TritonSettings
from dataloader.slides import open_slide
from run_utils.export import export
from run_utils.inference.batch_run import infer_all

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "samples"
SLIDE = SAMPLES / "CMU-1-Small-Region.svs"
CHECKPOINT = SAMPLES / "hovernet_lite_consep.pt"
ASKED = 10  # % at most
WINDOW = 1024  # px; the direct path gets the same
DIRECT = "direct"


def main() -> None:
    """Run a slide both ways, several times, and print the share that the server's way takes more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=2, help="runs of each way")
    parser.add_argument(
        "--side", type=int, default=9216, help="of the slide in px; 9216: a minute on two cores"
    )
    parser.add_argument("--protocols", default="http,grpc", help="of the server, with a comma between them")
    parser.add_argument("--maps", default="full,small", help="that the server gives")
    arguments = parser.parse_args()
    protocols, maps = arguments.protocols.split(","), arguments.maps.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = write_slide(folder / "slide.tif", arguments.side)
        for kind in maps:
            export_for_cpu(CHECKPOINT, folder / "models", model=kind, maps=kind)
        with TritonServer(folder / "models") as server:
            ways: dict[str, TritonSettings | None] = {DIRECT: None}
            for kind in maps:
                for protocol in protocols:
                    ways[f"{protocol}, {kind} maps"] = TritonSettings(
                        server.address(protocol), protocol, model=kind, requests=2
                    )
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            cpu_seconds: dict[str, list[float]] = {way: [] for way in ways}
            for index in range(arguments.times):
                for way, settings in ways.items():
                    before = cpu_time()
                    output = folder / f"{way} {index}"
                    seconds[way].append(infer(slide, output, settings))
                    cpu_seconds[way].append(cpu_time() - before)
    _state(seconds, cpu_seconds)


def export_for_cpu(checkpoint: Path, repository: Path, *, model: str, maps: str = "full") -> None:
    """Write a model folder for the server of `triton_server`, which has the Python backend alone; print nothing."""
    triton = TritonExportSettings(model, backend="python", device="cpu", window=WINDOW, maps=maps)
    with contextlib.redirect_stdout(io.StringIO()):
        status = export(ExportSettings(str(checkpoint), str(repository), to="triton", triton=triton))
    if status:
        raise SystemExit(f"{model} could not be exported")


def write_slide(path: Path, side: int) -> Path:
    """Write a JPEG pyramid that the sample's tissue fills, at 0.25 µm/px."""
    with open_slide(SLIDE) as sample:
        write_pyramid(path, sample.read(TISSUE, MPP), side, mpp=MPP)
    return path


def infer(slide: Path, output: Path, server: TritonSettings | None) -> float:
    """Return the seconds that a slide takes, from reading to its outputs, the start of the program left out."""
    settings = InferSettings(str(slide), str(output), str(CHECKPOINT), outputs=["json"], window=WINDOW)
    settings.predictor = "onnxruntime"
    if server is not None:
        settings.predictor, settings.triton = "triton", server
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = infer_all(settings)
    (slide_status,) = json.loads((output / "run.json").read_text())["slides"].values()
    if status:
        raise SystemExit(f"{slide} failed: {slide_status['reason']}")
    return float(slide_status["seconds"])


def cpu_time() -> float:
    """Return the CPU seconds that this process and all that it started, the server included, have taken so far."""
    own = psutil.Process()
    times = own.cpu_times()
    ended = times.children_user + times.children_system
    running = [process.cpu_times() for process in own.children(recursive=True)]
    return ended + sum(part.user + part.system for part in [times, *running])


def _state(seconds: Mapping[str, list[float]], cpu_seconds: Mapping[str, list[float]]) -> None:
    """Print each way's medians, and how much more than the direct one it takes, run beside run."""
    rows = []
    direct = statistics.median(seconds[DIRECT])
    for way in seconds:
        more, more_cpu = (_more(times[way], times[DIRECT]) for times in (seconds, cpu_seconds))
        medians = [statistics.median(times[way]) for times in (seconds, cpu_seconds)]
        rows.append((way, medians[0], f"{more:+.1%}", medians[1], f"{more_cpu:+.1%}"))
        if way != DIRECT:
            what = f"slide of {direct:.0f} s through Triton ({way}), more than the direct path"
            state(Figure(what, 100 * more, "%", asked=f"at most {ASKED} %"))
            state(Figure(f"{what}, of CPU time", 100 * more_cpu, "%", asked=f"at most {ASKED} %"))
    print(tabulate(rows, ("way", "s", "more", "CPU s", "more"), floatfmt=".2f"))


def _more(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(one / other - 1 for one, other in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
