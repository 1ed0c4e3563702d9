"""Extraction: annotated images to one patch store a split, resuming what an earlier run left."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from config.schema import DataSettings
from dataloader.annotations import AnnotationAdapter, open_annotations
from dataloader.patches import PatchSettings, PatchStore, prepare_store, write_patches
from run_utils.files import replacing

logger = logging.getLogger(__name__)
VALIDATION = "validation"
IMAGES = "images"  # folder of exported images


@dataclass(frozen=True)
class StorePlan:
    """Which images go into a store.

    Attributes:
        name: of the store, without suffix.
        split: split of the data set that the images belong to.
        image_names: the images, in order.
    """

    name: str
    split: str
    image_names: tuple[str, ...]


def open_data(data: DataSettings) -> AnnotationAdapter:
    """Open the data set of the settings; raises as ``open_annotations``."""
    return open_annotations(
        data.adapter,
        data.root,
        merge_types=data.merge_types,
        merged_names=data.merged_names,
        types=data.types,
        mpp=data.mpp,
        class_names=tuple(data.class_names),
        colours=data.colours,
    )


def plan_stores(
    adapter: AnnotationAdapter,
    splits: Sequence[str],
    *,
    split_from: str = "Train",
    num_validation: int = 5,
    seed: int = 10,
) -> list[StorePlan]:
    """Decide which image goes into which store: a store a split, and one of whole images for validation.

    Args:
        adapter: the data set.
        splits: its splits; their stores carry their names in lower case.
        split_from: the split that gives images to ``validation``; of no effect where it is not in ``splits``.
        num_validation: how many images it gives, chosen by ``seed`` alone; 0 for no validation store.
        seed: of the choice.

    Raises:
        ValueError: where validation would take all images, or two stores would have one name.
    """
    plans = []
    for split in splits:
        names = adapter.list_names(split)
        chosen: set[str] = set()
        if split == split_from and num_validation > 0:
            if num_validation >= len(names):
                raise ValueError(
                    f"num_validation={num_validation} leaves none of the {len(names)} images of {split} to "
                    "train on; set a smaller number"
                )
            chosen = set(np.random.default_rng(seed).choice(names, num_validation, replace=False).tolist())
            plans.append(StorePlan(VALIDATION, split, tuple(n for n in names if n in chosen)))
        plans.append(StorePlan(split.lower(), split, tuple(n for n in names if n not in chosen)))
    store_names = [plan.name for plan in plans]
    if len(set(store_names)) < len(store_names):
        raise ValueError(f"stores {store_names} share a name; set num_validation=0 or leave a split out")
    return plans


def extract_patches(
    adapter: AnnotationAdapter,
    output_dir: str | Path,
    plans: Sequence[StorePlan],
    *,
    patch_size: int = 540,
    patch_step: int = 256,
    border: str = "mirror",
) -> list[Path]:
    """Write one patch store a plan; what an earlier run finished is kept, image by image.

    Args:
        adapter: the data set.
        output_dir: folder for the stores, made where missing.
        plans: what ``plan_stores`` gave.
        patch_size: side of a patch in pixels.
        patch_step: distance between neighbouring patches in pixels, at most ``patch_size``.
        border: ``mirror`` covers the image to its edges by reflection, ``valid`` stays inside it.

    Returns:
        Paths ``<output_dir>/<plan.name>.zarr``, in the order of ``plans``.

    Raises:
        ValueError: for malformed annotations, or a store made with other settings or from other images.
        FileNotFoundError: for missing files of the data set.
    """
    settings = PatchSettings(
        patch_size=patch_size,
        patch_step=patch_step,
        border=border,
        mpp=adapter.mpp,
        class_names=tuple(adapter.class_names),
        adapter=adapter.name,
    )
    paths = [Path(output_dir) / f"{plan.name}.zarr" for plan in plans]
    remaining = [
        prepare_store(path, settings, plan.image_names) for path, plan in zip(paths, plans, strict=True)
    ]
    for path, plan, names in zip(paths, plans, remaining, strict=True):
        _extract_store(adapter, path, plan, names)
    return paths


def _extract_store(adapter: AnnotationAdapter, path: Path, plan: StorePlan, names: Sequence[str]) -> None:
    logger.info("%s: images of %s: %s", path, plan.split, ", ".join(plan.image_names))
    num_kept = len(plan.image_names) - len(names)
    if not names:
        logger.info("%s: complete, left as it is", path)
    elif num_kept:
        logger.info("%s: keeping the patches of %d images, %d to go", path, num_kept, len(names))
    bar = tqdm(names, desc=f"{plan.name} images", unit="image", disable=not names)
    write_patches(path, (adapter.read(plan.split, name) for name in bar))
    store = PatchStore(path)
    num_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    logger.info(
        "%s: %d images, %d patches, %d nuclei, %.1f MB",
        path,
        len(store.source_names),
        len(store),
        store.num_nuclei,
        num_bytes / 1e6,
    )


def export_images(adapter: AnnotationAdapter, output_dir: str | Path, splits: Sequence[str]) -> list[Path]:
    """Write each image of the splits as a PNG, for `run_infer.py`; what an earlier run wrote is kept.

    Args:
        adapter: the data set.
        output_dir: folder for ``images/<split>/<name>.png``, made where missing.
        splits: its splits.

    Returns:
        Folders ``<output_dir>/images/<split>``, in the order of ``splits``.

    Raises:
        ValueError: for malformed annotations, or a name that cannot be a file's.
        FileNotFoundError: for missing files of the data set.
    """
    folders = [Path(output_dir) / IMAGES / split for split in splits]
    for folder, split in zip(folders, splits, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        names = adapter.list_names(split)
        paths = {name: folder / f"{name}.png" for name in names}
        wrong = [name for name, path in paths.items() if path.parent != folder or path.stem != name]
        if wrong:
            raise ValueError(f"{adapter.name} {split}: image {wrong[0]!r} cannot name a file; rename it")
        remaining = [name for name in names if not paths[name].exists()]
        for name in tqdm(remaining, desc=f"{split} export", unit="image", disable=not remaining):
            with replacing(paths[name]) as temporary:
                Image.fromarray(adapter.read(split, name).image).save(temporary, format="PNG")
        logger.info(
            "%s: %d images, %d of them written now, of %g µm/px: run_infer.py input=%s mpp=%g",
            folder, len(names), len(remaining), adapter.mpp, folder, adapter.mpp,
        )  # fmt: skip
    return folders
