"""Print whether a GPU finds the nuclei that the CPU finds, and how long both take: `python -m benchmarks.gpu_decode`.

Without a GPU the same steps run by NumPy, the watershed's relaxation among them, and nothing is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from benchmarks.decode import MPP, NUCLEI_PER_MM2, RADIUS, RATE_SIZE, touching_nuclei
from benchmarks.figures import Figure, state
from benchmarks.timing import median_ms
from config.schema import TuneSettings
from metrics.overlap import Overlap
from metrics.segmentation import panoptic_quality
from models.hovernet.channels import FULL_LEVEL
from models.hovernet.device_decode import decode_on_device
from models.hovernet.postprocess import NORMALISATIONS, decode
from run_utils.tuning import predict_images

CHECKPOINT = "samples/hovernet_lite_consep.pt"
WANTED_PQ = 0.999
KINDS = ("float32", "small")

Maps = tuple[Any, Any, Any]
"""Probability of nucleus, HV and types of a window."""


def main() -> None:
    """Compare the nuclei, then time both sides; fail where the nuclei differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", default="data/patches/consep/test.zarr", help="patch store of images")
    parser.add_argument("--checkpoint", default=CHECKPOINT)
    parser.add_argument("--images", type=int, default=4, help="of the store, evenly spread; 0 for all")
    parser.add_argument("--size", type=int, default=2048, help="of drawn maps, height and width, pixels")
    parser.add_argument("--rows", type=int, default=64, help="drawn nuclei along each side")
    parser.add_argument("--repeats", type=int, default=5, help="runs that a median is of")
    arguments = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    print(torch.cuda.get_device_name() if has_gpu else "no CUDA device: the device's steps are run by NumPy")
    drawn = touching_nuclei(arguments.size, arguments.rows)
    windows = [(f"drawn, {arguments.size} px", drawn), *network_maps(arguments)]
    rows = [row for name, maps in windows for row in compare(name, maps)]
    print(tabulate(rows, ["maps", "kind", "mode", "CPU", "device", "PQ", "same pixels"], floatfmt=".6f"))
    least = min(row[5] for row in rows)
    state(Figure("least PQ between device and CPU", least, "PQ", is_rate=True, asked=f"at least {WANTED_PQ}"))
    if least < WANTED_PQ:
        raise SystemExit("the device's nuclei differ from those of the CPU")
    if has_gpu:
        print_times(drawn, arguments.repeats)


def network_maps(arguments: argparse.Namespace) -> list[tuple[str, Maps]]:
    """Return what the network gives for some images of a patch store; nothing, and a word, where there is none."""
    if not Path(arguments.patches).exists():
        print(f"{arguments.patches} is missing, its images are left out; make it with extract_patches.py")
        return []
    settings = TuneSettings(
        checkpoint=arguments.checkpoint, patches=arguments.patches, max_images=arguments.images
    )
    images = predict_images(settings)
    return [(image.name, image.maps) for image in images]


def compare(name: str, maps: Maps) -> Iterable[tuple[Any, ...]]:
    """Give a row for each kind of maps and mode: nuclei on both sides, PQ, share of pixels with the same id."""
    for kind in KINDS:
        given, full = as_kind(maps, kind)
        for mode in NORMALISATIONS:
            expected, nuclei = decode(*full, normalisation=mode)
            label_map, found = decode_on_device(*on_device(given), normalisation=mode)
            quality = panoptic_quality(Overlap.of(expected, label_map)).pq
            yield name, kind, mode, len(nuclei), len(found), quality, float((expected == label_map).mean())


def as_kind(maps: Maps, kind: str) -> tuple[Maps, Maps]:
    """Return maps as they are, or as uint8 and float16, and the float32 maps that they stand for."""
    if kind == "float32":
        return maps, maps
    nuclei, hv, types = maps
    small = to_levels(nuclei), hv.astype(np.float16), to_levels(types)
    full = [part.astype(np.float32) for part in small]
    return small, (full[0] / np.float32(FULL_LEVEL), full[1], full[2] / np.float32(FULL_LEVEL))


def to_levels(probability: np.ndarray) -> np.ndarray:
    """Return probabilities as uint8."""
    return np.round(probability * FULL_LEVEL).astype(np.uint8)


def on_device(maps: Maps) -> Maps:
    """Return maps as CUDA tensors where there is a GPU."""
    if not torch.cuda.is_available():
        return maps
    nuclei, hv, types = (torch.from_numpy(part).cuda() for part in maps)
    return nuclei, hv, types


def print_times(drawn: Maps, repeats: int) -> None:
    """Print what a window takes on either side, from maps that lie there to label map and table on the host."""
    rows = round(RATE_SIZE * MPP / 1000 * NUCLEI_PER_MM2**0.5)
    dense = touching_nuclei(RATE_SIZE, rows, radius=RADIUS)
    table = []
    for name, maps in (("all touch", drawn), (f"{NUCLEI_PER_MM2} nuclei/mm²", dense)):
        mm2 = maps[0].size * (MPP / 1000) ** 2
        for mode in NORMALISATIONS:
            medians = {side: median_ms(run, repeats)[0] for side, run in sides(maps, mode).items()}
            unit = medians["CPU, float32"]
            for side, ms in list(medians.items())[1:]:
                what = f"decode, {name}, {mode}, {side}"
                state(Figure(what, ms / 1000 / mm2, "s/mm²", unit / 1000 / mm2, "CPU, one thread"))
            table += [
                (f"{name}, {maps[0].shape[0]} px", mode, side, ms, ms / 1000 / mm2, unit / ms)
                for side, ms in medians.items()
            ]
    headers = ["maps", "mode", "side", "ms", f"s/mm² at {MPP} µm/px", "times faster"]
    print(tabulate(table, headers, floatfmt=("", "", "", ".1f", ".3f", ".1f")))


def sides(maps: Maps, mode: str) -> dict[str, Callable[[], Any]]:
    """Return what decodes the maps, which lie where it works already: the CPU first, the unit."""
    runs: dict[str, Callable[[], Any]] = {"CPU, float32": lambda: decode(*maps, normalisation=mode)}
    for kind in KINDS:
        given, _ = as_kind(maps, kind)
        runs[f"GPU, {kind}"] = partial(decode_synchronised, on_device(given), mode)
    return runs


def decode_synchronised(maps: Maps, mode: str) -> Any:
    """Decode on the device, between two waits for all that it was given to do."""
    torch.cuda.synchronize()
    result = decode_on_device(*maps, normalisation=mode)
    torch.cuda.synchronize()
    return result


if __name__ == "__main__":
    main()
