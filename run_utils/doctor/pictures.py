"""The doctor's pictures: a contact sheet of each split with outlined nuclei, and histograms."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dataloader.annotations import AnnotatedImage, AnnotationAdapter
from run_utils.doctor.charts import CHART_SHAPE, Curve, draw_steps
from run_utils.doctor.inspection import NUM_LEVELS, ImageRecord
from run_utils.outputs import default_colours
from run_utils.training.contact_sheet import (
    INK,
    OUTLINE,
    Colour,
    blank_sheet,
    measure_words,
    outline,
    stack_panels,
    swatch_key,
)

PANEL_SIDE = 360
CROP_SIDE = 180  # px, shown twice as large
NUM_AREA_BINS = 50
MAX_AREA_QUANTILE = 0.995  # the few largest nuclei would squeeze all others
NUM_COUNT_BINS = 12
UNTYPED = "no type"
UNTYPED_COLOUR: Colour = (255, 0, 200)
CHANNELS: tuple[tuple[str, Colour], ...] = (
    ("red", (200, 30, 30)),
    ("green", (20, 140, 60)),
    ("blue", (40, 80, 220)),
)


def draw_split(
    adapter: AnnotationAdapter, records: Sequence[ImageRecord], num_panels: int, seed: int
) -> np.ndarray:
    """Draw some images of a split in columns: the whole, and where nuclei are densest, without and with outlines.

    Args:
        adapter: reads them again.
        records: of the split's images, at least one.
        num_panels: images to draw, chosen by ``seed`` alone.
        seed: of the choice.

    Returns:
        (rows, columns, 3) uint8 RGB.
    """
    count = min(num_panels, len(records))
    chosen = [
        records[n] for n in sorted(np.random.default_rng(seed).choice(len(records), count, replace=False))
    ]
    kinds = _kinds(adapter.class_names)
    shown = _drop_unused(kinds, chosen)
    colours = [colour for _, colour in kinds]
    columns = [_draw_image(adapter.read(record.split, record.name), record, colours) for record in chosen]
    headings = [_fit(record.name) for record in chosen]
    legend = [swatch_key(name, colour) for name, colour in shown]
    return stack_panels(
        [list(row) for row in zip(*columns, strict=True)], headings, legend, shape=(PANEL_SIDE, PANEL_SIDE)
    )


def draw_histograms(records: Sequence[ImageRecord], adapter: AnnotationAdapter) -> np.ndarray:
    """Draw a row for each split: areas by type, nuclei an image, and intensities.

    Args:
        records: of all images, at least one.
        adapter: whose they are.

    Returns:
        (rows, columns, 3) uint8 RGB; the rows share their bins.
    """
    kinds = _kinds(adapter.class_names)
    areas = np.concatenate([record.areas for record in records]) * adapter.mpp**2
    largest = float(np.quantile(areas, MAX_AREA_QUANTILE)) if len(areas) else 1.0
    most = max(len(record.areas) for record in records)
    area_edges = np.linspace(0, largest, NUM_AREA_BINS + 1)
    count_edges = np.linspace(0, max(most, 1) + 1, min(NUM_COUNT_BINS, max(most, 1) + 1) + 1)
    share = "a type" if len(kinds) > 1 else "nuclei"
    rows = []
    for split in dict.fromkeys(record.split for record in records):
        own = [record for record in records if record.split == split]
        counts = np.histogram([len(record.areas) for record in own], count_edges)[0]
        rows.append(
            [
                draw_steps(
                    area_edges,
                    _area_curves(own, area_edges, adapter.mpp, kinds),
                    title=f"{split}: % of {share}",
                    unit="area of a nucleus (um2)",
                ),
                draw_steps(
                    count_edges, [Curve(counts, INK)], title=f"{split}: images", unit="nuclei an image"
                ),
                draw_steps(
                    np.linspace(0, 256, NUM_LEVELS + 1),
                    _intensity_curves(own),
                    title=f"{split}: % of pixels",
                    unit="grey level of red, green, blue",
                ),
            ]
        )
    legend = [swatch_key(name, colour) for name, colour in (*_drop_unused(kinds, records), *CHANNELS)]
    headings = ["Areas of nuclei", "Nuclei an image", "Intensities"]
    return stack_panels(rows, headings, legend, shape=CHART_SHAPE)


def _kinds(class_names: Sequence[str]) -> list[tuple[str, Colour]]:
    """Return name and colour of each type; the first is for nuclei without one."""
    if not class_names:
        return [("nuclei", OUTLINE)]
    named = zip(class_names, default_colours(len(class_names)), strict=True)
    return [(UNTYPED, UNTYPED_COLOUR), *list(named)[1:]]


def _drop_unused(
    kinds: Sequence[tuple[str, Colour]], records: Sequence[ImageRecord]
) -> list[tuple[str, Colour]]:
    """Return the keys of a legend: one for nuclei without a type, last, only where there are some."""
    has_untyped = any((record.types == 0).any() for record in records)
    return [*kinds[1:], *(kinds[:1] if has_untyped or len(kinds) == 1 else ())]


def _draw_image(image: AnnotatedImage, record: ImageRecord, colours: Sequence[Colour]) -> list[np.ndarray]:
    """Return (PANEL_SIDE, PANEL_SIDE, 3) panels: the whole image, outlined; the densest crop, plain and outlined."""
    type_of = np.zeros(int(image.label_map.max(initial=0)) + 1, np.int64)
    if len(record.types):
        type_of[np.unique(image.label_map[image.label_map > 0])] = record.types
    top, left, side = _find_densest(image.label_map)
    crop = (slice(top, top + side), slice(left, left + side))
    views = [_enlarge(image.image, image.label_map), _enlarge(image.image[crop], image.label_map[crop])]
    whole, close = (_outline_types(pixels, labels, type_of, colours) for pixels, labels in views)
    return [_centre(whole), _centre(views[1][0]), _centre(close)]


def _find_densest(label_map: np.ndarray) -> tuple[int, int, int]:
    """Return the upper left corner and the side of the square with most nuclear pixels."""
    side = min(CROP_SIDE, *label_map.shape)
    nuclear = (label_map > 0).astype(np.float32)
    sums = cv2.boxFilter(
        nuclear, -1, (side, side), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    valid = sums[: label_map.shape[0] - side + 1, : label_map.shape[1] - side + 1]
    top, left = np.unravel_index(int(valid.argmax()), valid.shape)
    return int(top), int(left), side


def _enlarge(image: np.ndarray, label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return image and label map at the size of a panel, their longer side filling it."""
    scale = PANEL_SIDE / max(label_map.shape)
    size_xy = tuple(max(1, round(length * scale)) for length in label_map.shape[::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    pixels = cv2.resize(np.ascontiguousarray(image), size_xy, interpolation=method)
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) / scale, old - 1).astype(np.int64)
        for new, old in zip(size_xy[::-1], label_map.shape, strict=True)
    )
    return pixels, label_map[np.ix_(rows, columns)]


def _outline_types(
    pixels: np.ndarray, labels: np.ndarray, type_of: np.ndarray, colours: Sequence[Colour]
) -> np.ndarray:
    kinds = type_of[labels]
    for kind in np.unique(kinds):
        pixels = outline(pixels, np.where(kinds == kind, labels, 0), colours[kind])
    return pixels


def _centre(panel: np.ndarray) -> np.ndarray:
    sheet = blank_sheet(PANEL_SIDE, PANEL_SIDE)
    top, left = ((PANEL_SIDE - length) // 2 for length in panel.shape[:2])
    sheet[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    return sheet


def _fit(words: str) -> str:
    """Return words cut to the width of a panel; their end stays, which tells images of one series apart."""
    if measure_words(words) <= PANEL_SIDE:
        return words
    while measure_words(f"...{words}") > PANEL_SIDE:
        words = words[1:]
    return f"...{words}"


def _area_curves(
    records: Sequence[ImageRecord], edges: np.ndarray, mpp: float, kinds: Sequence[tuple[str, Colour]]
) -> list[Curve]:
    areas = np.concatenate([record.areas for record in records]) * mpp**2
    types = np.concatenate([record.types for record in records])
    curves = []
    for number, (_, colour) in enumerate(kinds):
        own = areas[types == number] if len(kinds) > 1 else areas
        if len(own):
            curves.append(Curve(100 * np.histogram(own, edges)[0] / len(own), colour))
    return curves


def _intensity_curves(records: Sequence[ImageRecord]) -> list[Curve]:
    levels = np.sum([record.intensities for record in records], axis=0)
    return [
        Curve(100 * values / values.sum(), colour)
        for values, (_, colour) in zip(levels, CHANNELS, strict=True)
    ]
