"""Look at one annotated image: what it holds, in a few kilobytes, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dataloader.annotations import AnnotatedImage
from models.hovernet.targets import split_pieces
from run_utils.doctor.likeness import make_thumbnail

NUM_LEVELS = 64  # bins of the 256 grey levels
MAX_IDS = 5  # that a complaint names
MIN_CONTRAST = 4  # grey levels between the darkest and the brightest; below, an image shows nothing


@dataclass(frozen=True)
class Rules:
    """What an image is held against.

    Attributes:
        num_types: types of the data set, background included; 0 without types.
        min_area: px below which a nucleus is tiny.
        max_area: px above which a nucleus is giant.
    """

    num_types: int
    min_area: int
    max_area: float


@dataclass(frozen=True)
class Finding:
    """A kind of complaint, a key of ``KINDS``, and what was found."""

    kind: str
    detail: str


@dataclass(frozen=True)
class ImageRecord:
    """What is kept of an image.

    Attributes:
        split: of the data set.
        name: of the image.
        size_yx: (height, width) in pixels.
        tissue: that the data set names; empty for none.
        areas: (K,) px of each nucleus.
        types: (K,) its most frequent type, 0 where it has none; empty without types.
        type_pixels: (T,) px of each type in the type map; empty without types.
        intensities: (3, 64) number of pixels by red, green and blue, four grey levels a bin.
        digest: of the pixels, to find copies.
        thumbnail: small grey image, to find near-copies.
    """

    split: str
    name: str
    size_yx: tuple[int, int]
    tissue: str
    areas: np.ndarray
    types: np.ndarray
    type_pixels: np.ndarray
    intensities: np.ndarray
    digest: str
    thumbnail: np.ndarray


def inspect_image(
    split: str, image: AnnotatedImage, rules: Rules
) -> tuple[ImageRecord | None, list[Finding]]:
    """Return what an image holds and what is wrong with it; no record where its arrays cannot be worked with."""
    broken = list(_check_arrays(image, rules))
    if broken:
        return None, broken
    labels, num_types = image.label_map, rules.num_types
    areas = np.bincount(labels.reshape(-1))
    areas[0] = 0
    ids = np.flatnonzero(areas)
    areas = areas[ids]
    type_counts = None
    if image.type_map is not None and num_types:
        joint = labels.reshape(-1).astype(np.int64) * num_types + image.type_map.reshape(-1)
        type_counts = np.bincount(joint, minlength=(int(labels.max()) + 1) * num_types).reshape(-1, num_types)
    findings = [
        *_check_nuclei(labels, ids, areas, rules),
        *_check_types(ids, type_counts),
    ]
    if int(image.image.max()) - int(image.image.min()) < MIN_CONTRAST:
        findings.append(Finding("blank", f"all pixels lie in {image.image.min()}..{image.image.max()}"))
    empty = np.zeros(0, np.int64)
    record = ImageRecord(
        split=split,
        name=image.name,
        size_yx=(labels.shape[0], labels.shape[1]),
        tissue=image.tissue,
        areas=areas,
        types=empty if type_counts is None else _main_types(type_counts[ids]),
        type_pixels=empty if type_counts is None else type_counts.sum(axis=0),
        intensities=_count_intensities(image.image),
        digest=_digest(image.image),
        thumbnail=make_thumbnail(image.image),
    )
    return record, findings


def _check_arrays(image: AnnotatedImage, rules: Rules) -> Iterator[Finding]:
    """Yield what keeps the arrays from being worked with; adapters should refuse it, this makes sure."""
    pixels, labels, types = image.image, image.label_map, image.type_map
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        yield Finding("dtype", f"image is {pixels.dtype} of shape {pixels.shape}, not (H, W, 3) uint8")
    for what, values in (("label map", labels), ("type map", types)):
        if values is None:
            continue
        if values.dtype.kind not in "iu":
            yield Finding("dtype", f"{what} is {values.dtype}, not whole numbers")
        if values.shape != pixels.shape[:2]:
            yield Finding("sizes", f"{what} is {values.shape}, the image {pixels.shape[:2]}")
    if not pixels.size:
        yield Finding("sizes", "image has no pixel")
    yield from _check_values(labels, types, rules.num_types)


def _check_values(labels: np.ndarray, types: np.ndarray | None, num_types: int) -> Iterator[Finding]:
    """Yield ids and types that cannot be counted."""
    if labels.min(initial=0) < 0:
        yield Finding("ids", f"label map holds {labels.min()}")
    if labels.max(initial=0) > labels.size:
        yield Finding("ids", f"label map holds {labels.max()}, which is more than it has pixels")
    if types is None:
        if num_types:
            yield Finding("types", "no type map, though the data set has types")
        return
    beyond = sorted({int(kind) for kind in np.unique(types)} - set(range(max(num_types, 1))))
    if beyond:
        yield Finding("types", f"type map holds {beyond}, the class list 0..{max(num_types, 1) - 1}")


def _check_nuclei(labels: np.ndarray, ids: np.ndarray, areas: np.ndarray, rules: Rules) -> Iterator[Finding]:
    if not len(ids):
        yield Finding("empty", "no nucleus is annotated")
        return
    tiny, giant = areas < rules.min_area, areas > rules.max_area
    if tiny.any():
        yield Finding(
            "tiny", f"{_count(tiny)} below {rules.min_area} px: {_show(ids[tiny], areas[tiny], 'px')}"
        )
    if giant.any():
        yield Finding(
            "giant", f"{_count(giant)} above {rules.max_area:.0f} px: {_show(ids[giant], areas[giant], 'px')}"
        )
    pieces = split_pieces(labels)  # as training does
    first = np.unique(pieces, return_index=True)[1]
    owners, counts = np.unique(labels.reshape(-1)[first], return_counts=True)
    torn = (counts > 1) & (owners != 0)
    if torn.any():
        yield Finding("pieces", f"{_count(torn)}: {_show(owners[torn], counts[torn], 'pieces')}")


def _check_types(ids: np.ndarray, type_counts: np.ndarray | None) -> Iterator[Finding]:
    """Look at the px of each type in each id, (largest id + 1, T)."""
    if type_counts is None:
        return
    num_kinds = (type_counts[ids, 1:] > 0).sum(axis=1)
    untyped, mixed = num_kinds == 0, num_kinds > 1
    if untyped.any():
        yield Finding("untyped", f"{_count(untyped)}: ids {_list(ids[untyped])}")
    if mixed.any():
        yield Finding("mixed", f"{_count(mixed)}: {_show(ids[mixed], num_kinds[mixed], 'types')}")
    stray = int(type_counts[0, 1:].sum())
    if stray:
        yield Finding("stray_types", f"{stray} px have a type and no nucleus")


def _main_types(type_counts: np.ndarray) -> np.ndarray:
    """Return the most frequent type but background of each of (K, T) counts; 0 where there is none."""
    typed = type_counts[:, 1:]
    if not typed.size:
        return np.zeros(len(type_counts), np.int64)
    return np.where(typed.any(axis=1), typed.argmax(axis=1) + 1, 0)


def _count_intensities(image: np.ndarray) -> np.ndarray:
    binned = image // (256 // NUM_LEVELS)
    return np.stack([np.bincount(binned[..., c].reshape(-1), minlength=NUM_LEVELS) for c in range(3)])


def _digest(image: np.ndarray) -> str:
    size = np.array(image.shape, np.int64).tobytes()
    return hashlib.sha256(size + np.ascontiguousarray(image).tobytes()).hexdigest()


def _count(which: np.ndarray) -> str:
    count = int(which.sum())
    return "1 nucleus" if count == 1 else f"{count} nuclei"


def _show(ids: np.ndarray, values: np.ndarray, unit: str) -> str:
    pairs = [f"id {i} ({v} {unit})" for i, v in zip(ids[:MAX_IDS], values[:MAX_IDS], strict=True)]
    return ", ".join(pairs) + (", …" if len(ids) > MAX_IDS else "")


def _list(ids: np.ndarray) -> str:
    return ", ".join(map(str, ids[:MAX_IDS])) + (", …" if len(ids) > MAX_IDS else "")
