"""PNG for the eye: the image with every nucleus outlined in its type's colour, and a legend below it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.nuclei import Nuclei
from run_utils.outputs.colours import default_colours, name_types
from run_utils.outputs.result import ImageResult, StoredResult

LINE_UM = 0.5  # width of an outline on the tissue: 2 px at 0.25 µm/px
LINE_PX = (1, 4)  # but at least and at most this
UNKNOWN_LINE_PX = 2
DOT_RADIUS_PX = 3
DOT_COLOUR = (255, 0, 0)
FONT_PX = (12, 28)
WHITE = (255, 255, 255)
INK = (30, 30, 30)

Entry = tuple[str, tuple[int, int, int]]


def write(result: ImageResult, path: Path, *, legend: bool = True, dots: bool = False) -> None:
    """Write the picture, the image's top left corner at its own.

    Args:
        result: what to show.
        path: the file, PNG whatever its extension.
        legend: add a strip below with each type's colour, name and number of nuclei; it hides nothing.
        dots: mark each centroid.
    """
    canvas = draw_nuclei(result, dots=dots)
    if legend:
        canvas = _add_strip(canvas, _legend_entries(result))
    Image.fromarray(canvas).save(path, format="PNG")


def read(path: Path) -> StoredResult:
    """Read the picture, legend included."""
    with Image.open(path, formats=["PNG"]) as image:
        return StoredResult(image=np.asarray(image.convert("RGB")))


def draw_nuclei(result: ImageResult, *, dots: bool = False) -> np.ndarray:
    """Return a copy of the image, (H, W, 3) uint8 RGB, with the nuclei outlined in their types' colours."""
    canvas = result.image.copy()
    nuclei = result.nuclei
    width = UNKNOWN_LINE_PX if result.mpp is None else int(np.clip(round(LINE_UM / result.mpp), *LINE_PX))
    kinds = np.ones(len(nuclei), np.int32) if nuclei.types is None else nuclei.types
    for kind, colour in enumerate(_colours(result)):
        outlines = [
            np.ascontiguousarray(nuclei.contour(row)[:, None, ::-1])
            for row in np.flatnonzero(kinds == kind).tolist()
        ]
        cv2.drawContours(canvas, outlines, -1, colour, width, cv2.LINE_AA)
    for y, x in np.rint(nuclei.centroids).astype(int).tolist() if dots else ():
        cv2.circle(canvas, (x, y), DOT_RADIUS_PX, DOT_COLOUR, cv2.FILLED)
    return canvas


def _num_types(nuclei: Nuclei) -> int:
    """Return how many types to tell apart, background counted; without types all nuclei are of type 1."""
    return 2 if nuclei.types is None else int(nuclei.types.max(initial=1)) + 1


def _colours(result: ImageResult) -> tuple[tuple[int, int, int], ...]:
    """Return the colour of each type."""
    if result.types is None or result.nuclei.types is None:
        return default_colours(_num_types(result.nuclei))
    return tuple(kind.colour for kind in result.types)


def _legend_entries(result: ImageResult) -> list[Entry]:
    """Return text and colour of each type; background only where a nucleus has it."""
    nuclei = result.nuclei
    if nuclei.types is None:
        return [(f"nuclei ({len(nuclei)})", _colours(result)[1])]
    types = name_types(result.types, _num_types(nuclei))
    counts = np.bincount(nuclei.types, minlength=len(types))
    return [
        (f"{kind.name} ({count})", kind.colour)
        for index, (kind, count) in enumerate(zip(types, counts, strict=True))
        if index > 0 or count > 0
    ]


def _add_strip(canvas: np.ndarray, entries: list[Entry]) -> np.ndarray:
    """Return ``canvas`` with the legend below; a canvas too narrow for an entry is widened with white."""
    size = int(np.clip(canvas.shape[1] // 50, *FONT_PX))
    font = ImageFont.load_default(size)
    widths = [round(font.getlength(text)) + 3 * size for text, _ in entries]
    width = max(canvas.shape[1], max(widths, default=0) + size)
    places, num_lines = _flow(widths, width, size)
    line_height = round(1.8 * size)
    strip = Image.new("RGB", (width, num_lines * line_height + size), WHITE)
    draw = ImageDraw.Draw(strip)
    for (text, colour), (x, line) in zip(entries, places, strict=True):
        y = size // 2 + line * line_height + line_height // 2
        draw.rectangle((x, y - size // 2, x + size, y + size // 2), fill=colour, outline=INK)
        draw.text((x + round(1.5 * size), y), text, fill=INK, font=font, anchor="lm")
    wide = np.full((canvas.shape[0], width, 3), WHITE, np.uint8)
    wide[:, : canvas.shape[1]] = canvas
    return np.concatenate([wide, np.asarray(strip)])


def _flow(widths: list[int], width: int, indent: int) -> tuple[list[tuple[int, int]], int]:
    """Place entries of ``widths`` in lines of ``width`` px: (x, line) of each, and the number of lines."""
    places, x, line = [], indent, 0
    for entry in widths:
        if x > indent and x + entry > width:
            x, line = indent, line + 1
        places.append((x, line))
        x += entry
    return places, line + 1
