"""What each split holds, in numbers: images, nuclei, types, areas and densities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from dataloader.annotations import AnnotationAdapter
from run_utils.doctor.complaints import Complaint
from run_utils.doctor.inspection import ImageRecord

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
UM2_PER_MM2 = 1e6
UNTYPED = "no type"


@dataclass(frozen=True)
class Summary:
    """What a split holds.

    Attributes:
        split: of the data set.
        mpp: µm/px.
        num_listed: images it names.
        num_images: images that could be read; all else is of these.
        num_nuclei: nuclei.
        nuclei: number of nuclei by type; empty without types.
        pixels: number of pixels by type in the type maps, background included; empty without types.
        images_with: number of images that hold a nucleus of the type.
        tissues: number of images by tissue; empty where none is named.
        sizes: number of images by "height x width" in pixels.
        area_um2: quantiles of the nuclei's areas in µm², by "all" and by type; empty without nuclei.
        density_per_mm2: quantiles over images of nuclei a mm².
        nuclei_per_image: quantiles over images, and "mean".
    """

    split: str
    mpp: float
    num_listed: int
    num_images: int
    num_nuclei: int
    nuclei: dict[str, int]
    pixels: dict[str, int]
    images_with: dict[str, int]
    tissues: dict[str, int]
    sizes: dict[str, int]
    area_um2: dict[str, dict[str, float]]
    density_per_mm2: dict[str, float]
    nuclei_per_image: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def summarise(
    adapter: AnnotationAdapter, split: str, num_listed: int, records: Sequence[ImageRecord]
) -> Summary:
    """Return what the records of a split say together; zeros and empty tables where there is none."""
    own = [record for record in records if record.split == split]
    areas = _join([record.areas for record in own])
    counts = np.array([len(record.areas) for record in own], np.int64)
    mm2 = np.array([record.size_yx[0] * record.size_yx[1] for record in own]) * adapter.mpp**2 / UM2_PER_MM2
    um2 = areas * adapter.mpp**2
    by_type: dict[str, np.ndarray] = {}
    pixels: dict[str, int] = {}
    images_with: dict[str, int] = {}
    if adapter.class_names:
        types = _join([record.types for record in own])
        names = (UNTYPED, *adapter.class_names[1:])
        by_type = {name: um2[types == number] for number, name in enumerate(names)}
        images_with = {
            name: sum(bool((record.types == number).any()) for record in own)
            for number, name in enumerate(names)
        }
        totals = sum((record.type_pixels for record in own), np.zeros(len(names), np.int64))
        pixels = dict(zip(adapter.class_names, totals.tolist(), strict=True))
    mean = {"mean": float(counts.mean())} if len(counts) else {}
    return Summary(
        split=split,
        mpp=adapter.mpp,
        num_listed=num_listed,
        num_images=len(own),
        num_nuclei=len(areas),
        nuclei={name: len(values) for name, values in by_type.items()},
        pixels=pixels,
        images_with=images_with,
        tissues=dict(Counter(record.tissue for record in own if record.tissue)),
        sizes=dict(Counter(f"{record.size_yx[0]} x {record.size_yx[1]}" for record in own).most_common()),
        area_um2={
            name: _quantiles(values) for name, values in {"all": um2, **by_type}.items() if len(values)
        },
        density_per_mm2=_quantiles(counts / mm2),
        nuclei_per_image={**_quantiles(counts), **mean},
    )


def find_absent_types(summaries: Sequence[Summary], class_names: Sequence[str]) -> list[Complaint]:
    """Complain of the types that have no nucleus in a split that has nuclei."""
    complaints = []
    for summary in summaries:
        absent = [name for name in class_names[1:] if not summary.nuclei.get(name)]
        if absent and summary.num_nuclei:
            complaints.append(Complaint("absent_type", summary.split, "", ", ".join(absent)))
    return complaints


def format_summaries(summaries: Sequence[Summary], adapter: AnnotationAdapter) -> str:
    """Return the tables that are printed: of splits, and of types within them."""
    heads = ["split", "images", "size (px)", "µm/px", "nuclei", "a image", "a mm² (5, 50, 95 %)"]
    rows = [[s.split, _images(s), _sizes(s), s.mpp, s.num_nuclei, *_spread(s)] for s in summaries]
    tables = [tabulate(rows, heads, floatfmt=("", "", "", "g", ",.0f", ".1f", ""), intfmt=",")]
    heads = [
        "split",
        "type",
        "nuclei",
        "share",
        "in images",
        "px share",
        "µm²: 5 %",
        "25 %",
        "50 %",
        "75 %",
        "95 %",
    ]
    rows = [row for summary in summaries for row in _type_rows(summary, adapter.class_names)]
    tables.append(tabulate(rows, heads, floatfmt=".1f", intfmt=",", missingval="-"))
    return "\n\n".join(tables)


def _type_rows(summary: Summary, class_names: Sequence[str]) -> list[list[Any]]:
    total = max(summary.num_nuclei, 1)
    total_pixels = max(sum(summary.pixels.values()), 1)
    rows = []
    for number, (name, count) in enumerate(summary.nuclei.items()):
        if name == UNTYPED and not count:
            continue
        pixels = None if name == UNTYPED else f"{summary.pixels[class_names[number]] / total_pixels:.1%}"
        share, images = f"{count / total:.1%}", summary.images_with[name]
        rows.append([summary.split, name, count, share, images, pixels, *_areas(summary, name)])
    last = [summary.split, "all", summary.num_nuclei, None, summary.num_images, None]
    return [*rows, [*last, *_areas(summary, "all")]]


def _areas(summary: Summary, name: str) -> list[float | None]:
    return [summary.area_um2.get(name, {}).get(_name(quantile)) for quantile in QUANTILES]


def _images(summary: Summary) -> str:
    is_whole = summary.num_images == summary.num_listed
    return str(summary.num_images) if is_whole else f"{summary.num_images} of {summary.num_listed}"


def _sizes(summary: Summary) -> str:
    if len(summary.sizes) <= 1:
        return next(iter(summary.sizes), "-")
    return f"{next(iter(summary.sizes))} and {len(summary.sizes) - 1} other"


def _spread(summary: Summary) -> list[Any]:
    if not summary.num_images:
        return [None, "-"]
    density = [summary.density_per_mm2[_name(q)] for q in (0.05, 0.5, 0.95)]
    return [summary.nuclei_per_image["mean"], ", ".join(f"{value:,.0f}" for value in density)]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {
        _name(q): float(value) for q, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
    }


def _name(quantile: float) -> str:
    return f"{quantile:.0%}"


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
