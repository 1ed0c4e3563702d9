"""What `benchmarks.gpu` measures itself, part by part; on a CPU the same with tiny sizes, to be tried.

A part imports what it needs when it runs: where something is not installed, that part fails alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.figures import Figure, state
from benchmarks.scaling import TISSUE

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "samples" / "CMU-1-Small-Region.svs"
LITE = ROOT / "samples" / "hovernet_lite_consep.pt"
FLOP_PER_PIXEL = 6.2e6  # of `fast` for a pixel of its output, in windows of 2048; torch counts 6.18e6
MPP = 0.25
PUBLISHED_BATCH = 32
ASKED_SHARE, ASKED_COST, ASKED_RATE = "at least 40 %", "at most 0.5 s/mm²", "at least 250 patches/s"


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        matrix: side of the square matrices.
        window: of the network, pixels.
        batches: windows at once, one after another.
        repeats: products or batches that a time is the mean of.
        slide: side of the JPEG pyramid in pixels.
        reference: side of the pyramid that is predicted in the reference's way; 0 leaves it out.
        networks: that predict the pyramid.
        steps: of a training epoch.
    """

    matrix: int = 8192
    window: int = 2048
    batches: Sequence[int] = (1, 2, 4)
    repeats: int = 10
    slide: int = 16384
    reference: int = 4096
    networks: Sequence[str] = ("fast", "lite")
    steps: int = 40


TINY = Sizes(
    matrix=256, window=104, batches=(1,), repeats=1, slide=1024, reference=0, networks=("lite",), steps=1
)


def sizes_for(device: torch.device) -> Sizes:
    """Return what is worth measuring on a GPU, and next to nothing on a CPU."""
    return Sizes() if device.type == "cuda" else TINY


def measure_network(device: torch.device, sizes: Sizes, *, predictor: str) -> None:
    """State what share of the matrix rate `fast` reaches with a predictor, and its output beside fp32's."""
    rate = matrix_rate(device, sizes)
    state(Figure(f"bf16 matrix product, {sizes.matrix}²", rate / 1e12, "TFLOP/s", is_rate=True))
    middle = len(sizes.batches) // 2  # compiling takes minutes for each batch
    batches = sizes.batches[middle : middle + 1] if predictor == "compile" else sizes.batches
    pixels: dict[int, float] = {}  # of output a second, by batch
    for batch in batches:
        try:
            pixels[batch] = predictor_rate(predictor, batch, device, sizes)
        except (MemoryError, RuntimeError) as error:  # the batches before count
            print(f"{predictor}, batch {batch}: {error}")
            break
        share, cost = 100 * FLOP_PER_PIXEL * pixels[batch] / rate, (1000 / MPP) ** 2 / pixels[batch]
        print(f"{predictor}, batch {batch}: {share:.1f} % of the matrix rate, {cost:.3f} s/mm²", flush=True)
    if not pixels:
        raise SystemExit(f"predictor={predictor} ran with no batch of {sizes.window} px windows")
    batch = max(pixels, key=lambda number: pixels[number])
    what = f"`fast`, {sizes.window} px windows, {predictor}, batch {batch}"
    share = 100 * FLOP_PER_PIXEL * pixels[batch] / rate
    state(Figure(f"{what}, share of the matrix rate", share, "%", is_rate=True, asked=ASKED_SHARE))
    published = published_rate(device, sizes) / 1e6 if predictor == "torch" else None
    way = "published windows, fp32 eager" if published else ""
    state(Figure(f"{what}, output", pixels[batch] / 1e6, "Mpx/s", published, way, is_rate=True))


def predictor_rate(name: str, batch: int, device: torch.device, sizes: Sizes) -> float:
    """Return the output pixels a second of `fast` with a predictor, maps small and left where they are."""
    from models.hovernet.network import HoVerNet
    from run_utils.build_inference import PREDICTORS, Engine

    engine = Engine(device, torch.bfloat16, is_small=True, stays=device.type == "cuda")
    predictor = PREDICTORS[name](HoVerNet("fast", 5), engine)
    shape = (batch, sizes.window, predictor.geometry.margin)
    return pixel_rate(predictor.predict, shape, device, sizes.repeats)


def matrix_rate(device: torch.device, sizes: Sizes) -> float:
    """Return the FLOP/s of a large product of bf16 matrices."""
    first, second = torch.randn((2, sizes.matrix, sizes.matrix), device=device, dtype=torch.bfloat16)
    return 2 * sizes.matrix**3 / mean_seconds(lambda: first @ second, device, sizes.repeats)


def pixel_rate(
    predict: Callable[[torch.Tensor], object], shape: tuple[int, int, int], device: torch.device, repeats: int
) -> float:
    """Return the output pixels a second of batches of uint8 windows that lie on the device.

    Args:
        predict: takes the windows.
        shape: windows at once, their side, and by how much the output's side is smaller.
        device: where they lie.
        repeats: batches that are timed.
    """
    batch, side, margin = shape
    tiles = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=device)
    return batch * (side - margin) ** 2 / mean_seconds(lambda: predict(tiles), device, repeats)


def published_rate(device: torch.device, sizes: Sizes) -> float:
    """Return the output pixels a second of the published windows in fp32, nothing fused, as torch runs it."""
    from models.hovernet.network import HoVerNet
    from run_utils.inference.torch_predictor import TorchPredictor

    plain = TorchPredictor(HoVerNet("fast", 5), device, torch.float32)
    side, batch = (256, PUBLISHED_BATCH) if device.type == "cuda" else (sizes.window, 1)
    return pixel_rate(plain.predict, (batch, side, plain.geometry.margin), device, sizes.repeats)


def mean_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the mean seconds of a run, after two that are not counted."""
    for _ in range(2):
        run()
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    _wait_for(device)
    return (time.perf_counter() - start) / repeats


def measure_slide(device: torch.device, sizes: Sizes) -> None:
    """State the seconds a mm² of tissue from a JPEG pyramid to files; `fast` is untrained and finds no nuclei.

    What is timed is one slide after a small one, which starts the engine: reading, network, decoding, writing.
    """
    from benchmarks.untrained import untrained_hovernet
    from models.hovernet.checkpoint import save_checkpoint

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_slides(folder, sizes)
        save_checkpoint(untrained_hovernet("fast"), folder / "fast.pt")
        fast = [f"checkpoint={folder / 'fast.pt'}", f"device={device}"]
        commands = {"fast": fast, "lite": [f"checkpoint={LITE}", f"device={device}"]}
        costs = {network: slide_cost(folder, "slides", commands[network]) for network in sizes.networks}
        reference = None
        if sizes.reference:
            plainly = ["published_windows=true", "precision=fp32", f"batch_size={PUBLISHED_BATCH}"]
            reference = slide_cost(folder, "reference", [*fast, "predictor=torch", *plainly])
    for network, cost in costs.items():
        untrained = ", untrained: it finds no nuclei" if network == "fast" else ""
        what = f"{sizes.slide}² px JPEG pyramid to files, {network}{untrained}"
        other = reference if network == "fast" else None
        state(
            Figure(what, cost, "s/mm²", other, "published windows, fp32" if other else "", asked=ASKED_COST)
        )


def write_slides(folder: Path, sizes: Sizes) -> None:
    """Write folders of a small slide and one to measure: JPEG pyramids of the sample's tissue at 0.25 µm/px."""
    from benchmarks.pyramid import write_pyramid
    from dataloader.slides import open_slide

    with open_slide(SAMPLE) as slide:
        tissue = slide.read(TISSUE, MPP)
    for name, side in {"slides": sizes.slide, "reference": sizes.reference}.items():
        (folder / name).mkdir()
        for slide_name, length in (("a_first", min(side, 2048)), ("b_measured", side)):
            if length:
                write_pyramid(folder / name / f"{slide_name}.tif", tissue, length, mpp=MPP)


def slide_cost(folder: Path, slides: str, settings: Sequence[str]) -> float:
    """Return the seconds a mm² that `run_infer.py` takes for the second slide of a folder; print its stages."""
    output = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "run_infer.py", f"input={folder / slides}", f"output={output}", *settings]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"run_infer.py ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
    print(ended.stdout, flush=True)
    status = json.loads((output / "run.json").read_text())["slides"]["b_measured"]
    return float(status["seconds"] / status["mm2"])


def measure_training(device: torch.device, sizes: Sizes) -> None:
    """State patches/s of training, beside a plain loop; each side is stated as soon as it is measured."""
    from benchmarks.training import OURS, PLAIN, WAY, Plan, draw_patches, make_sides
    from dataloader.memory import keep_freed_memory

    keep_freed_memory()  # as training does
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    plan = Plan.of(str(device), sizes.steps)
    with tempfile.TemporaryDirectory() as folder:
        draw_patches(Path(folder) / "train.zarr", plan.num_patches)
        sides = make_sides(plan, Path(folder))
        plain = sides.pop(PLAIN)().usage.patches_per_second
        for name, run_epochs in sides.items():
            usage = run_epochs().usage
            print(f"{name}: {usage}")
            what = f"training {plan.network}{name.removeprefix(OURS)}"
            asked = ASKED_RATE if name == OURS and plan.is_gpu else ""
            rate = usage.patches_per_second
            state(Figure(what, rate, "patches/s", plain, WAY, is_rate=True, asked=asked))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
