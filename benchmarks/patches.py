"""Size and speed of the patch store and of the warp: `python -m benchmarks.patches`.

Extracts CoNSeP's Train images (540 windows every 256 pixels, mirrored) to a temporary folder and compares
with the published format, one int32 .npy file (540, 540, 5) a patch, in the same run: bytes, and time of a
random patch out of the page cache. Then the warp of a patch to the network's input, against warping it all.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import albumentations as A
import cv2
import numpy as np

from benchmarks.figures import Figure, state
from benchmarks.timing import median_ms
from dataloader.annotations import open_annotations
from dataloader.augment import Geometry, GeometrySettings, crop_centre
from dataloader.patches import Patch, PatchStore
from run_utils.extraction import extract_patches, plan_stores

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "consep"
INPUT_SIZE = 270  # pixels, of the published network
BYTES_PER_VALUE = 4  # int32


def main() -> None:
    """Measure, and print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="CoNSeP in its published layout")
    parser.add_argument("--num-reads", type=int, default=200, help="random patches to read and to warp")
    parser.add_argument("--num-npy", type=int, default=32, help="patches to write in the published format")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"medians over {arguments.num_reads} random patches; {os.cpu_count()} CPU cores")
    with tempfile.TemporaryDirectory() as folder:
        adapter = open_annotations("consep", arguments.data)
        start = time.perf_counter()
        (path,) = extract_patches(adapter, folder, plan_stores(adapter, ["Train"], num_validation=0))
        seconds = time.perf_counter() - start
        store = PatchStore(path)
        print(f"extraction: {len(store.source_names)} images, {len(store)} patches in {seconds:.1f} s")
        npy_paths = write_npy(store, Path(folder) / "npy", arguments.num_npy)
        compare_sizes(store, npy_paths)
        compare_reads(store, npy_paths, arguments.num_reads)
        compare_warps(store.read(len(store) // 2), arguments.num_reads)


def write_npy(store: PatchStore, folder: Path, count: int) -> list[Path]:
    """Write patches spread over the store in the published format, int32 (S, S, 5): RGB, label, type."""
    folder.mkdir()
    paths = []
    for index in np.linspace(0, len(store) - 1, count).astype(int).tolist():
        paths.append(folder / f"{index}.npy")
        np.save(paths[-1], np.dstack([np.asarray(part, dtype=np.int32) for part in store.read(index)]))
    return paths


def compare_sizes(store: PatchStore, npy_paths: list[Path]) -> None:
    """Print bytes of the store's files and of as many .npy files."""
    ours = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    formula = store.settings.patch_size**2 * 5 * BYTES_PER_VALUE
    header = npy_paths[0].stat().st_size - formula
    assert all(path.stat().st_size == formula + header for path in npy_paths)
    published = len(store) * (formula + header)
    num_files = sum(file.is_file() for file in store.path.rglob("*"))
    what, way = f"{len(store)} patches in {num_files} files", "int32 .npy, a file a patch"
    state(Figure(what, ours / 1e6, "MB", published / 1e6, way, asked="at least 8 times"))


def compare_reads(store: PatchStore, npy_paths: list[Path], num_reads: int) -> None:
    """Print the time of a random patch, all of its arrays, from the store and from a .npy file."""
    draws = np.random.default_rng(0).integers(0, len(store) * len(npy_paths), num_reads).tolist()
    ours = time_ms(lambda draw: store.read(draw % len(store)), draws)
    published = time_ms(lambda draw: np.load(npy_paths[draw % len(npy_paths)]), draws)
    way = ".npy, not compressed, out of the page cache"
    state(Figure("reading a random patch, all its maps", ours, "ms", published, way, asked="at most 10 ms"))


def compare_warps(patch: Patch, num_warps: int) -> None:
    """Print the time of a warp straight to the network's input, and of warping it all and cropping."""
    whole = A.Affine(
        scale={"x": (0.8, 1.2), "y": (0.8, 1.2)},
        translate_percent={"x": (-0.01, 0.01), "y": (-0.01, 0.01)},
        shear={"x": (-5, 5), "y": (-5, 5)},
        rotate=(-179, 179),
        border_mode=cv2.BORDER_REFLECT_101,
        p=1,
    )
    targets = {"label_map": "mask", "type_map": "mask"}
    flips = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
    compose = A.Compose([whole, A.CenterCrop(INPUT_SIZE, INPUT_SIZE), *flips], additional_targets=targets)

    def warp_all(_: int) -> None:
        maps = {"label_map": patch.label_map.astype(np.float32), "type_map": patch.type_map}
        compose(image=patch.image, **maps)["label_map"].astype(np.int32)

    seeds = list(range(num_warps))
    published = time_ms(warp_all, seeds)
    for crop in ("centre", "random"):
        geometry = Geometry(INPUT_SIZE, GeometrySettings(crop=crop))
        ours = time_ms(partial(geometry, *patch), seeds)
        way = "all of it, then cropped"
        state(Figure(f"warp of a patch to {INPUT_SIZE} px, crop={crop}", ours, "ms", published, way))
    validation = time_ms(lambda _: [crop_centre(part, INPUT_SIZE).copy() for part in patch[:2]], seeds)
    state(Figure("validation's centre crop", validation, "ms"))


def time_ms(call: Callable[[int], object], values: list[int]) -> float:
    """Return the median time in ms of the call for each value, after one that is not counted."""
    upcoming = itertools.cycle(values)
    return median_ms(lambda: call(next(upcoming)), len(values))[0]


if __name__ == "__main__":
    main()
