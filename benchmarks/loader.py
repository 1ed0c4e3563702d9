"""Patches a second from disk to targets on the device: `python -m benchmarks.loader`.

Extracts CoNSeP's Train images to a temporary folder and loads them in both ways, in the same run, with as many
workers: ours, and the published loader written out plainly (`benchmarks.plain_loader`). Files are warm in the
page cache. Each side's loader runs on while batches are counted; figures are medians over its repeats. The CPU
time a patch takes, of all processes, depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from benchmarks import plain_loader
from benchmarks.figures import Figure, state
from benchmarks.patches import DATA, time_ms, write_npy
from dataloader.annotations import open_annotations
from dataloader.augment import Geometry, GeometrySettings
from dataloader.colour import ColourAugment
from dataloader.memory import keep_freed_memory
from dataloader.patch_dataset import PatchDataset
from dataloader.patches import PatchStore
from models.hovernet.targets import make_targets, split_pieces
from run_utils.extraction import extract_patches, plan_stores
from run_utils.training.device_transforms import DeviceTransforms, Stage

INPUT_SIZE, OUTPUT_SIZE = 256, 164  # pixels, of the published ``fast`` network
BATCH_SIZE = 16
COLOUR = ColourAugment()
NUM_PREFETCHED = 2  # batches a worker has ready, torch's default
NUM_STEPS = 64  # patches that a step's time is a median of


def main() -> None:
    """Load in both ways, and print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="CoNSeP in its published layout")
    parser.add_argument("--num-patches", type=int, default=432, help="patches to load; the store holds 432")
    parser.add_argument("--batches", type=int, default=27, help="batches of a repeat")
    parser.add_argument("--repeats", type=int, default=5, help="that a median is of")
    parser.add_argument("--workers", type=int, default=2, help="processes of each side's DataLoader")
    parser.add_argument("--threads", type=int, default=1, help="of torch beside the workers")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        adapter = open_annotations("consep", arguments.data)
        (path,) = extract_patches(adapter, folder, plan_stores(adapter, ["Train"], num_validation=0))
        store = PatchStore(path)
        paths = write_npy(store, Path(folder) / "npy", arguments.num_patches)
        print(
            f"{len(paths)} patches, batches of {BATCH_SIZE}, {arguments.workers} workers, {arguments.device}, "
            f"{os.cpu_count()} CPU cores; medians of {arguments.repeats} x {arguments.batches} batches"
        )
        print_steps("published", _published_steps(paths))
        compare_rates(store, paths, arguments)
        print_steps("ours", _our_steps(store, arguments.device))


def compare_rates(store: PatchStore, paths: list[Path], arguments: argparse.Namespace) -> None:
    """Print patches a second of both sides and their ratio; ours also without what a GPU would do."""
    transforms = make_transforms(arguments.device)
    upcoming = itertools.count()
    plain = plain_loader.PlainDataset(paths, INPUT_SIZE, OUTPUT_SIZE)
    patches = make_patches(store)
    sides: dict[str, tuple[Dataset[Any], Callable[[Any], object]]] = {
        "published": (plain, lambda batch: plain_loader.to_device(batch, arguments.device)),
        "ours": (patches, lambda batch: transforms(batch, next(upcoming))),
        "ours, workers alone": (patches, lambda batch: batch),
    }
    medians, costs = {}, {}
    for name, (dataset, finish) in sides.items():
        if dataset is patches:
            keep_freed_memory()  # as training does; the published code does not
        loader = make_loader(dataset, arguments.workers, pin_memory=arguments.device.type == "cuda")
        before = cpu_seconds()
        rates = measure_rates(map(finish, loader), arguments)
        num_batches = (arguments.repeats + 1) * arguments.batches + arguments.workers * NUM_PREFETCHED
        costs[name] = 1000 * (cpu_seconds() - before) / (num_batches * BATCH_SIZE)
        medians[name] = statistics.median(rates)
        ratio, cost_ratio = medians[name] / medians["published"], costs["published"] / costs[name]
        print(
            f"{name}: {medians[name]:.0f} patches/s ({min(rates):.0f} to {max(rates):.0f}), ratio {ratio:.1f}; "
            f"{costs[name]:.1f} ms of CPU a patch, ratio {cost_ratio:.1f}"
        )
    state_rates(medians, costs, arguments.workers)


def state_rates(rates: dict[str, float], costs: dict[str, float], workers: int) -> None:
    """State patches a second and CPU time a patch beside the published loader's."""
    way = "everything on the workers, .npy patches"
    for name, part in {"ours": "disk to targets", "ours, workers alone": "disk to batches"}.items():
        what, asked = f"{part}, {workers} workers", "at least 10 times" if name == "ours" else ""
        state(Figure(what, rates[name], "patches/s", rates["published"], way, is_rate=True, asked=asked))
        state(Figure(f"{what}, CPU time", costs[name], "ms a patch", costs["published"], way))


def cpu_seconds() -> float:
    """Return the CPU time so far of this process and of the workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def make_transforms(device: torch.device) -> DeviceTransforms:
    """Return what our batches go through on the device."""
    stage = Stage("colour", 0, colour=COLOUR)
    return DeviceTransforms(device, OUTPUT_SIZE, has_types=True, stages=[stage])


def make_patches(store: PatchStore) -> PatchDataset:
    """Return our patches, warped as published."""
    return PatchDataset(store, INPUT_SIZE, augment=GeometrySettings(), split_pieces=split_pieces)


def make_loader(patches: Dataset[Any], num_workers: int, *, pin_memory: bool) -> DataLoader[Any]:
    """Return a loader that goes on for ever, as within a run: no worker starts between its batches."""
    return DataLoader(
        patches,
        batch_sampler=_endless_batches(len(patches)),  # type: ignore[arg-type]
        num_workers=num_workers,
        prefetch_factor=NUM_PREFETCHED,
        pin_memory=pin_memory,
    )


def _endless_batches(num_patches: int) -> Iterator[list[int]]:
    """Yield batches of items `epoch * num_patches + patch`, each epoch in an order of its own."""
    for epoch in itertools.count():
        order = epoch * num_patches + np.random.default_rng(epoch).permutation(num_patches)
        yield from order[: num_patches // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE).tolist()


def measure_rates(batches: Iterable[object], arguments: argparse.Namespace) -> list[float]:
    """Return patches a second of every repeat, after one that is not counted; the workers end with it."""
    iterator = iter(batches)
    rates = []
    for _ in range(arguments.repeats + 1):
        start = time.perf_counter()
        for _ in range(arguments.batches):
            next(iterator)
        if arguments.device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(arguments.batches * BATCH_SIZE / (time.perf_counter() - start))
    return rates[1:]


def print_steps(name: str, steps: dict[str, float]) -> None:
    """Print where a side spends its time, in ms a patch, one step after another without workers."""
    parts = ", ".join(f"{step} {spent:.2f}" for step, spent in steps.items())
    print(f"{name}: {parts} ms a patch; together {sum(steps.values()):.2f}")


def _published_steps(paths: list[Path]) -> dict[str, float]:
    draws = list(range(min(NUM_STEPS, len(paths))))
    generator = np.random.default_rng(0)
    raw = [plain_loader.read(paths[draw]) for draw in draws]
    warped = [plain_loader.warp(*patch, INPUT_SIZE, generator) for patch in raw]

    def change_colours(draw: int) -> None:
        plain_loader.recolour(plain_loader.degrade(warped[draw][0], generator), generator)

    def encode(draw: int) -> None:
        maps = warped[draw][1]
        plain_loader.encode(maps[..., 0], maps[..., 1], OUTPUT_SIZE)

    return {
        "read": time_ms(lambda draw: plain_loader.read(paths[draw]), draws),
        "warp": time_ms(lambda draw: plain_loader.warp(*raw[draw], INPUT_SIZE, generator), draws),
        "colour": time_ms(change_colours, draws),
        "targets": time_ms(encode, draws),
    }


def _our_steps(store: PatchStore, device: torch.device) -> dict[str, float]:
    draws = np.linspace(0, len(store) - 1, NUM_STEPS).astype(int).tolist()
    raw = {draw: store.read(draw) for draw in draws}
    geometry = Geometry(INPUT_SIZE, GeometrySettings())
    patches = make_patches(store)
    samples = [patches[draw] for draw in draws]
    batches = [default_collate(samples[i : i + BATCH_SIZE]) for i in range(0, NUM_STEPS, BATCH_SIZE)]
    on_device = [{name: values.to(device) for name, values in batch.items()} for batch in batches]
    max_ids = [int(batch["label_map"].max()) for batch in batches]

    def change_colours(seed: int) -> None:
        images = on_device[seed % len(batches)]["image"].permute(0, 3, 1, 2)
        COLOUR(images, torch.Generator().manual_seed(seed))
        _wait_for(device)

    def encode(draw: int) -> None:
        maps = on_device[draw % len(batches)]
        max_id = max_ids[draw % len(batches)]
        make_targets(maps["label_map"], maps["type_map"], OUTPUT_SIZE, max_id=max_id)
        _wait_for(device)

    seeds = list(range(NUM_STEPS // 2))
    return {
        "read": time_ms(store.read, draws),
        "warp": time_ms(lambda draw: geometry(*raw[draw], seed=draw), draws),
        "pieces": time_ms(lambda draw: split_pieces(raw[draw].label_map[:INPUT_SIZE, :INPUT_SIZE]), draws),
        "colour": time_ms(change_colours, seeds) / BATCH_SIZE,
        "targets": time_ms(encode, seeds) / BATCH_SIZE,
    }


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
