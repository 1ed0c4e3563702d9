"""Macenko and rgb2hed, ours beside scikit-image, torchstain and MONAI: ``python -m benchmarks.stain``.

The peers are development extras; one that is missing is left out, and said so. With a GPU ours is also run by CuPy
(where installed) and by torch, with and without transfer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
import torch
from skimage.color import rgb2hed as skimage_rgb2hed
from tabulate import tabulate

from benchmarks.figures import Figure, state
from benchmarks.timing import median_ms
from dataloader.stain import MacenkoNormalizer, StainStatistics, rgb2hed
from dataloader.stain.apply import recolour_tensor
from dataloader.stain.arrays import has_cupy
from dataloader.stain.density import ROBUST, mixing_matrices
from dataloader.stain.mixing import DensityMixing

Run = tuple[str, Callable[[], Any]]
PEERS = ("torchstain", "monai")
CUPY = "CuPy, without transfer"
ASKED_SIZE = 4000  # px
ASKED = {"torchstain, NumPy": "at least 3 times", CUPY: "at least 200 times"}
TORCHSTAIN = "Macenko fit + transform, torchstain's arithmetic"


def main() -> None:
    """Print, for each size, the time of each way, how many times ours it is, and the greatest difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 2048, 4000], help="of a side, px")
    parser.add_argument("--repeats", type=int, default=3, help="runs that a median is of")
    parser.add_argument("--threads", type=int, default=2, help="of OpenCV and torch")
    parser.add_argument(
        "--peer-limit",
        type=int,
        default=4096,
        help="px of a side up to which the peers run: 8192 takes 20 GB",
    )
    arguments = parser.parse_args()
    cv2.setNumThreads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    for peer in PEERS:
        if find_spec(peer) is None:
            print(f"{peer} is not installed and is left out; uv pip install {peer}")
    for size in arguments.sizes:
        image, with_peers = tissue(size), size <= arguments.peer_limit
        tables = {
            TORCHSTAIN: torchstain_table(image, with_peers),
            "Macenko fit + transform, MONAI's arithmetic": monai_table(image, with_peers),
            "Macenko fit + transform, our default": default_table(image),
            "Macenko transform alone, our default": transform_table(image),
            "rgb2hed": hed_table(image, with_peers),
        }
        for title, runs in tables.items():
            times = compare(f"{title}, {size} px", runs, arguments.repeats)
            is_asked = title == TORCHSTAIN and size == ASKED_SIZE
            state_figures(f"{title}, {size} px", times, ASKED if is_asked else {})


def tissue(size: int) -> np.ndarray:
    """Return (size, size, 3) uint8: haematoxylin and eosin mixed at random, blurred, a fifth of it glass."""
    generator = np.random.default_rng(0)
    stains = np.array([[0.6, 0.2], [0.7, 0.85], [0.38, 0.48]], np.float32)
    concentrations = generator.gamma(1.0, 0.7, (size, size, 2)).astype(np.float32)
    density = cv2.transform(cv2.GaussianBlur(concentrations, (3, 3), 0), stains)
    density[: size // 5] = 0.05
    noise = generator.normal(0, 1, (size, size, 3)).astype(np.float32)
    return np.clip(np.rint(255 * np.exp(-density) + noise), 0, 255).astype(np.uint8)


def torchstain_table(image: np.ndarray, with_peers: bool) -> list[Run]:
    """Return ways to fit an image and bring it to the published target by torchstain's arithmetic; ours first."""
    ours = MacenkoNormalizer(variant="torchstain", max_pixels=None)
    sampled = MacenkoNormalizer(variant="torchstain")
    runs: list[Run] = [
        ("ours, fitted on all pixels", lambda: ours.fit(image).transform(image)),
        ("ours, fitted on 2^20 pixels", lambda: sampled.fit(image).transform(image)),
    ]
    if with_peers and find_spec("torchstain"):
        runs += torchstain_runs(image)
    return runs + device_runs(image, lambda on_device: ours.fit(on_device).transform(on_device))


def monai_table(image: np.ndarray, with_peers: bool) -> list[Run]:
    """Return the same by MONAI's arithmetic."""
    ours = MacenkoNormalizer(variant="monai", max_pixels=None)
    runs: list[Run] = [("ours, fitted on all pixels", lambda: ours.fit(image).transform(image))]
    return runs + [("MONAI", monai_run(image))] if with_peers and find_spec("monai") else runs


def default_table(image: np.ndarray) -> list[Run]:
    """Return the same by our defaults."""
    ours = MacenkoNormalizer()
    runs: list[Run] = [("ours", lambda: ours.fit(image).transform(image))]
    return runs + device_runs(image, lambda on_device: ours.fit(on_device).transform(on_device))


def torchstain_runs(image: np.ndarray) -> list[Run]:
    """Return torchstain's Macenko by NumPy and by torch, without its separate stain images."""
    import torchstain

    make = torchstain.normalizers.MacenkoNormalizer
    by_numpy, by_torch = make(backend="numpy"), make(backend="torch")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    return [
        ("torchstain, NumPy", lambda: by_numpy.normalize(image, stains=False)[0]),
        ("torchstain, torch", lambda: by_torch.normalize(tensor, stains=False)[0].numpy()),
    ]


def monai_run(image: np.ndarray) -> Callable[[], np.ndarray]:
    """Return MONAI's Macenko.

    MONAI 1.6 puts the vector that absorbs less red first, which for H&E is eosin; its target is given in that order
    too, or its pictures could not be compared.
    """
    from monai.apps.pathology.transforms.stain.array import ExtractHEStains, NormalizeHEStains

    target = np.array(((0.5626, 0.2159), (0.7201, 0.8012), (0.4062, 0.5581)))
    maxima = np.array((1.9705, 1.0308))
    found = ExtractHEStains()(image)
    if found[0, 0] < found[0, 1]:
        target, maxima = target[:, ::-1], maxima[::-1]
    return partial(NormalizeHEStains(target_he=target, max_cref=maxima), image)


def transform_table(image: np.ndarray) -> list[Run]:
    """Return ways to apply a known stain, channels last and first."""
    normalizer = MacenkoNormalizer()
    source = normalizer.estimate(image)
    planar = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    runs: list[Run] = [
        ("ours", lambda: normalizer.transform(image, source)),
        ("ours, torch tensor, channels first", lambda: _last(normalizer.transform(planar, source))),
    ]
    if torch.cuda.is_available():
        on_device, mixing = planar.cuda()[None], _mixing(source, normalizer)
        runs.append(("torch alone on the GPU", _synchronised(partial(recolour_tensor, on_device, mixing))))
    return runs + device_runs(image, lambda on_device: normalizer.transform(on_device, source))


def hed_table(image: np.ndarray, with_peers: bool) -> list[Run]:
    """Return ways to separate fixed stains."""
    runs: list[Run] = [("ours", lambda: rgb2hed(image))]
    if with_peers:
        runs.append(("scikit-image", lambda: skimage_rgb2hed(image)))
    return runs + device_runs(image, rgb2hed)


def device_runs(image: np.ndarray, work: Callable[[Any], Any]) -> list[Run]:
    """Return ``work`` by CuPy with and without transfer; nothing where there is no GPU or no CuPy."""
    if not torch.cuda.is_available() or not has_cupy():
        return []
    import cupy

    on_device = cupy.asarray(image)
    return [
        (CUPY, _synchronised(lambda: work(on_device))),
        ("CuPy, with transfer", lambda: work(cupy.asarray(image)).get()),
    ]


def compare(title: str, runs: list[Run], repeats: int) -> dict[str, float]:
    """Run all ways, print a table and return ms; the first is the unit, and what the results are compared with."""
    rows: list[tuple[str, float, float, float]] = []
    unit, expected = 0.0, np.zeros(0)
    for name, run in runs:
        milliseconds, result = median_ms(run, repeats)
        result = _on_host(result)
        if not rows:
            unit, expected = milliseconds, result
        rows.append((name, milliseconds, milliseconds / unit, greatest_difference(result, expected)))
    print(f"\n{title}")
    print(tabulate(rows, ["", "ms", "times ours", "greatest difference"], floatfmt=("", ".1f", ".2f", ".3g")))
    return {row[0]: row[1] for row in rows}


def state_figures(title: str, times: dict[str, float], asked: dict[str, str]) -> None:
    """State ours beside the peers, and ours on a GPU beside ours on the CPU; times in ms, the first ours on the CPU."""
    ours, *others = times
    for name in others:
        aim = asked.get(name, "")
        if "CuPy" in name or "GPU" in name:
            state(Figure(f"{title}, {name}", times[name], "ms", times[ours], "ours on the CPU", asked=aim))
        elif not name.startswith("ours"):
            state(Figure(title, times[ours], "ms", times[name], name, asked=aim))


def greatest_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the greatest difference, a block of rows after another."""
    steps = range(0, len(first), 256)
    return max(
        float(
            np.abs(
                np.subtract(first[start : start + 256], second[start : start + 256], dtype=np.float64)
            ).max()
        )
        for start in steps
    )


def _mixing(source: StainStatistics, normalizer: MacenkoNormalizer) -> DensityMixing:
    """Return what the default normaliser does with a source."""
    matrices = mixing_matrices([source], normalizer.target)
    return DensityMixing(matrices, ROBUST.table(), ROBUST.intensity, fades=ROBUST.fades)


def _synchronised(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return ``work`` that waits for the GPU."""

    def run() -> Any:
        result = work()
        torch.cuda.synchronize()
        return result

    return run


def _on_host(result: Any) -> np.ndarray:
    """Return a result as NumPy with the channels last."""
    if isinstance(result, torch.Tensor):
        return _last(result[0] if result.ndim == 4 else result).cpu().numpy()
    return result.get() if hasattr(result, "get") else np.asarray(result)


def _last(image: torch.Tensor) -> torch.Tensor:
    """Return a view with the channels last, of what is not so yet."""
    return image if image.shape[-1] == 3 else image.movedim(-3, -1)


if __name__ == "__main__":
    main()
