"""Where the parts of training are joined: settings in, things that run out; every choice by name is a table here.

`build_inference.py` is its other half.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from config.schema import AugmentationSettings, ModelSettings, TrainingRun
from dataloader.augment import GeometrySettings
from dataloader.colour import ColourAugment
from dataloader.npy_patches import PUBLISHED_MPP, NpyPatches, Patches
from dataloader.patch_dataset import PatchDataset
from dataloader.patches import PatchStore
from dataloader.stain import HedJitter, Normalizer
from metrics.detection import radius_at
from models.hovernet.checkpoint import Network, load_weights
from models.hovernet.lite import HoVerNetLite
from models.hovernet.losses import HoVerLoss
from models.hovernet.network import HoVerNet
from models.hovernet.targets import split_pieces
from models.nuclei import NucleusType
from run_utils.build_inference import default_window
from run_utils.devices import resolve_device, resolve_precision, usable_cpus
from run_utils.distributed import ALONE, World
from run_utils.inference.plan import Plan
from run_utils.outputs import default_colours
from run_utils.stain import build_normalizer, describe_stain
from run_utils.training.balance import balance_types, weigh_patches
from run_utils.training.device_transforms import DeviceTransforms, SourceNormaliser, Stage
from run_utils.training.parts import TrainingParts
from run_utils.training.validation import Validator

logger = logging.getLogger(__name__)

MAX_WORKERS = 8
CPU_VALIDATION_WINDOW = 1024  # px; beside what training holds in memory
WEIGHT_DIGITS = 6  # significant ones of class weights: what is logged and saved is what is used


def _hovernet(settings: ModelSettings, num_types: int | None) -> Network:
    return HoVerNet(settings.mode, num_types)


def _hovernet_lite(settings: ModelSettings, num_types: int | None) -> Network:
    return HoVerNetLite(
        settings.encoder,
        num_types,
        num_stages=settings.num_stages,
        decoder_channels=settings.decoder_channels,
        margin=settings.margin,
    )


NETWORKS = {"HoVerNet": _hovernet, "HoVerNetLite": _hovernet_lite}


def build_network(run: TrainingRun, num_types: int | None) -> Network:
    """Return the network that a run trains, with the weights it starts from, on the CPU."""
    torch.manual_seed(run.seed)
    network = NETWORKS[run.model.name](run.model, num_types)
    has_start = bool(run.train.start_from)
    if has_start:
        load_weights(network, run.train.start_from)
    elif run.train.imagenet and isinstance(network, HoVerNetLite):
        has_start = network.load_imagenet()
    frozen = [number for number, phase in enumerate(run.train.phases) if phase.freeze_encoder]
    if frozen and not has_start:
        raise ValueError(
            f"train.phases.{frozen[0]} freezes an encoder with random weights: set train.start_from to a "
            "checkpoint, such as ImageNet-ResNet50-Preact_pytorch.tar of the HoVer-Net authors, or "
            f"train.phases.{frozen[0]}.freeze_encoder=false"
        )
    return network


def build_geometry(settings: AugmentationSettings) -> GeometrySettings:
    """Return the ranges of the warp that workers apply to patches."""
    smallest, largest = settings.scale
    return GeometrySettings(
        crop=settings.crop,
        scale=(smallest, largest),
        shift=settings.shift,
        shear=settings.shear,
        rotation=settings.rotation,
        flip=settings.flip,
    )


def build_colour(settings: AugmentationSettings) -> ColourAugment:
    """Return the colour changes that the device applies to a batch."""
    least, greatest = settings.contrast
    return ColourAugment(
        hue=settings.hue,
        saturation=settings.saturation,
        brightness=settings.brightness,
        contrast=(least, greatest),
        degrade=settings.degrade,
        blur_kernels=tuple(settings.blur_kernels),
        noise=settings.noise,
    )


def build_stages(run: TrainingRun, patches: PatchDataset, normalizer: Normalizer | None) -> list[Stage]:
    """Return what happens to the images of a batch on its device, in the order that the settings give.

    Raises:
        ValueError: where the patches hold no statistics of their stain, and are to be normalised.
    """
    stain = run.stain
    stages = {"colour": Stage("colour varied", 2, colour=build_colour(run.augmentation))}
    if normalizer is not None:
        statistics = patches.stain_statistics(stain.method)
        stages["normalise"] = Stage("normalised", 0, normalise=SourceNormaliser(normalizer, statistics))
    if stain.hed_scale or stain.hed_shift:
        stages["hed"] = Stage("stain varied", 1, colour=HedJitter(stain.hed_scale, stain.hed_shift))
    return [stages[name] for name in stain.order if name in stages]


def _build_normalizer(run: TrainingRun) -> Normalizer | None:
    return None if run.stain.method == "none" else build_normalizer(run.stain.method, run.stain.target)


def colour_types(class_names: Sequence[str]) -> tuple[NucleusType, ...] | None:
    """Return the types of a data set with colours to draw them in; None where it has no types."""
    if not class_names:
        return None
    colours = default_colours(len(class_names))
    return tuple(NucleusType(name, colour) for name, colour in zip(class_names, colours, strict=True))


def build_training(run: TrainingRun, world: World = ALONE) -> TrainingParts:
    """Put together what the training loop works with.

    Args:
        run: the settings.
        world: the processes that train together.

    Raises:
        FileNotFoundError, ValueError: where the patch stores are missing or do not fit the settings.
    """
    settings = run.train
    store = open_store(run, run.data.train_store)
    types = colour_types(store.class_names) if run.model.has_types else None
    _check_has_types(run, types)
    device = world.place(resolve_device(run.device))
    dtype = resolve_precision(settings.precision, device)
    network = build_network(run, None if types is None else len(types))
    input_size = settings.input_size or network.geometry.published
    _check_class_weights(settings.class_weights, types)
    patches = _build_patches(run, store, input_size)
    class_weights = _weigh_types(run, patches, types)
    normalizer = _build_normalizer(run)
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    return TrainingParts(
        network=network.to(device).to(memory_format=layout),
        patches=patches,
        num_patches=len(patches),
        transforms=DeviceTransforms(
            device,
            network.geometry.output_size(input_size),
            has_types=types is not None,
            stages=build_stages(run, patches, normalizer),
            legacy=settings.legacy,
            channels_last=settings.channels_last,
        ),
        loss=HoVerLoss(
            dataclasses.asdict(settings.loss_weights),
            class_weights or None,
            focal_gamma=settings.focal_gamma,
            legacy=settings.legacy,
            sum_over=world.sum_over,
        ).to(device),
        validator=_build_validator(run, types, device, dtype, normalizer, world),
        device=device,
        dtype=dtype,
        num_workers=_count_workers(world) if settings.num_workers < 0 else settings.num_workers,
        world=world,
        patch_weights=_weigh_patches(run, patches),
        facts={
            "types": types,
            "class_weights": class_weights,
            "mpp": store.mpp,
            "stain": describe_stain(normalizer),
            "settings": dataclasses.asdict(run),
        },
    )


def _count_workers(world: World) -> int:
    """Return how many processes read patches for this one: the machine's CPUs are shared by all that train on it."""
    return max(min(usable_cpus() // world.local_size, MAX_WORKERS), 1)


def _check_class_weights(weights: Sequence[float], types: tuple[NucleusType, ...] | None) -> None:
    if weights and types is not None and len(weights) != len(types):
        names = ", ".join(kind.name for kind in types)
        raise ValueError(f"train.class_weights={list(weights)} must hold one weight for each type: {names}")


def _check_has_types(run: TrainingRun, types: tuple[NucleusType, ...] | None) -> None:
    settings = run.train
    if types is None and (settings.balance != "none" or settings.sampling == "types"):
        raise ValueError(
            f"train.balance={settings.balance} train.sampling={settings.sampling} go by types, but the run has none; "
            "set train.balance=none train.sampling=uniform"
        )


def _weigh_types(
    run: TrainingRun, patches: PatchDataset, types: tuple[NucleusType, ...] | None
) -> list[float]:
    """Return the weight of each type in nc_ce, as the settings give or as the patches call for; empty for none."""
    if types is None or run.train.balance == "none":
        return list(run.train.class_weights)
    counts = patches.type_pixels().sum(axis=0)
    weights = [float(f"{weight:.{WEIGHT_DIGITS}g}") for weight in balance_types(counts, run.train.balance)]
    rows = zip((kind.name for kind in types), counts, weights, strict=True)
    listed = ", ".join(f"{name} {weight:g} ({count:,} px)" for name, count, weight in rows)
    logger.info("train.balance=%s weighs types in nc_ce: %s", run.train.balance, listed)
    return weights


def _weigh_patches(run: TrainingRun, patches: PatchDataset) -> np.ndarray | None:
    """Return how often each patch is drawn, where that is not once."""
    if run.train.sampling == "uniform":
        return None
    weights = weigh_patches(patches.type_pixels(), run.train.sampling_gamma)
    shares = weights / weights.mean()
    logger.info("train.sampling=types draws a patch %.2f to %.2f times an epoch", shares.min(), shares.max())
    return weights


def open_store(run: TrainingRun, name: str) -> Patches:
    """Open a patch store of the run's data set, or a folder of the published code's `.npy` patches."""
    folder = Path(run.data.patches)
    for path in (folder / f"{name}.zarr", folder / name):
        if path.is_dir():
            return open_patches(path, class_names=run.data.class_names, mpp=run.data.mpp)
    raise FileNotFoundError(
        f"no patches at {folder / name}.zarr: run extract_patches.py data={run.data.adapter} data.root=… "
        f"data.patches={run.data.patches} first, or set data.patches"
    )


def open_patches(path: Path, *, class_names: Sequence[str] = (), mpp: float = 0.0) -> Patches:
    """Open a patch store, called `.zarr`, or a folder of the published code's `.npy` patches.

    Args:
        path: of either.
        class_names: of the `.npy` patches, background first; empty numbers the types that occur.
        mpp: µm/px of the `.npy` patches; 0 for the published one.

    Raises:
        FileNotFoundError, ValueError: where there are none, or they are malformed.
    """
    if path.suffix == ".zarr" or not path.is_dir():
        return PatchStore(path)
    return NpyPatches(path, class_names=class_names, mpp=mpp or PUBLISHED_MPP)


def _build_patches(run: TrainingRun, store: Patches, input_size: int) -> PatchDataset:
    geometry = build_geometry(run.augmentation)
    return PatchDataset(store, input_size, augment=geometry, seed=run.seed, split_pieces=split_pieces)


def _build_validator(
    run: TrainingRun,
    types: tuple[NucleusType, ...] | None,
    device: torch.device,
    dtype: torch.dtype,
    normalizer: Normalizer | None,
    world: World,
) -> Validator | None:
    name = run.data.validation_store
    if not any((Path(run.data.patches) / folder).is_dir() for folder in (f"{name}.zarr", name)):
        logger.warning("no %s.zarr in %s: training goes on without validation", name, run.data.patches)
        return None
    store = open_store(run, name)
    _check_same_types(store, types)
    radius = radius_at(store.mpp)
    plan = Plan(window=default_window(device) if device.type == "cuda" else CPU_VALIDATION_WINDOW)
    normalise = None
    if normalizer is not None:
        normalise = SourceNormaliser(normalizer, store.stain_statistics(run.stain.method))
    return Validator(
        store,
        types,
        device=device,
        dtype=dtype,
        plan=plan,
        radius=radius,
        normalise=normalise,
        world=world,
    )


def _check_same_types(store: Patches, types: tuple[NucleusType, ...] | None) -> None:
    """Refuse validation patches whose types mean others than the training's; the last ones may be absent."""
    names = [] if types is None else [kind.name for kind in types]
    own = list(store.class_names) if names else []
    if own != names[: len(own)] or bool(own) != bool(names):
        raise ValueError(
            f"{store.path} has the types {own}, the training patches {names}; cut both with the same data.types, "
            "data.class_names and data.merge_types"
        )
