"""PNG for the eye: the image with every nucleus outlined in its type's colour, and a legend below it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from models.nuclei import Nuclei, NucleusType
from run_utils.outputs.colours import default_colours, name_types
from run_utils.outputs.legend import Entry, add_legend
from run_utils.outputs.result import SlideResult, StoredResult

LINE_UM = 0.5  # width of an outline on the tissue: 2 px at 0.25 µm/px
LINE_PX = (1, 4)  # but at least and at most this
UNKNOWN_LINE_PX = 2
DOT_RADIUS_PX = 3
DOT_COLOUR = (255, 0, 0)
REACH_PX = max(*LINE_PX, DOT_RADIUS_PX) + 1  # no line or dot reaches further beyond a nucleus's box


def write(result: SlideResult, path: Path, *, legend: bool = True, dots: bool = False) -> None:
    """Write the picture, the image's top left corner at its own.

    Args:
        result: what to show; it is held in memory whole.
        path: the file, PNG whatever its extension.
        legend: add a strip below with each type's colour, name and number of nuclei; it hides nothing.
        dots: mark each centroid.
    """
    nuclei = result.whole_nuclei()
    canvas = np.array(result.read((0, 0, *result.shape)))
    draw_nuclei(canvas, nuclei, types=result.types, mpp=result.mpp, dots=dots)
    if legend:
        canvas = add_legend(canvas, _legend_entries(nuclei, result.types))
    Image.fromarray(canvas).save(path, format="PNG")


def read(path: Path) -> StoredResult:
    """Read the picture, legend included."""
    with Image.open(path, formats=["PNG"]) as image:
        return StoredResult(image=np.asarray(image.convert("RGB")))


def draw_nuclei(
    canvas: np.ndarray,
    nuclei: Nuclei,
    *,
    types: tuple[NucleusType, ...] | None,
    mpp: float | None,
    dots: bool = False,
    origin_yx: tuple[int, int] = (0, 0),
) -> None:
    """Outline nuclei in their types' colours, in place.

    Args:
        canvas: (H, W, 3) uint8 RGB, contiguous.
        nuclei: in the frame of the slide; what lies outside the canvas is left out.
        types: their names and colours, or None for default colours.
        mpp: µm to a pixel, which makes the lines' width; None for 2 px.
        dots: mark each centroid.
        origin_yx: (y, x) of the canvas in the slide.
    """
    width = UNKNOWN_LINE_PX if mpp is None else int(np.clip(round(LINE_UM / mpp), *LINE_PX))
    kinds = np.ones(len(nuclei), np.int32) if nuclei.types is None else nuclei.types
    shift_xy = (-origin_yx[1], -origin_yx[0])
    for kind, colour in enumerate(_colours(nuclei, types)):
        outlines = [
            np.ascontiguousarray(nuclei.contour(row)[:, None, ::-1])
            for row in np.flatnonzero(kinds == kind).tolist()
        ]
        cv2.drawContours(canvas, outlines, -1, colour, width, cv2.LINE_AA, offset=shift_xy)
    for y, x in (np.rint(nuclei.centroids).astype(int) - origin_yx).tolist() if dots else ():
        cv2.circle(canvas, (x, y), DOT_RADIUS_PX, DOT_COLOUR, cv2.FILLED)


def _num_types(nuclei: Nuclei) -> int:
    """Return how many types to tell apart, background counted; without types all nuclei are of type 1."""
    return 2 if nuclei.types is None else int(nuclei.types.max(initial=1)) + 1


def _colours(nuclei: Nuclei, types: tuple[NucleusType, ...] | None) -> tuple[tuple[int, int, int], ...]:
    """Return the colour of each type."""
    if types is None or nuclei.types is None:
        return default_colours(_num_types(nuclei))
    return tuple(kind.colour for kind in types)


def _legend_entries(nuclei: Nuclei, types: tuple[NucleusType, ...] | None) -> list[Entry]:
    """Return text and colour of each type; background only where a nucleus has it."""
    if nuclei.types is None:
        return [(f"nuclei ({len(nuclei)})", _colours(nuclei, types)[1])]
    types = name_types(types, _num_types(nuclei))
    counts = np.bincount(nuclei.types, minlength=len(types))
    return [
        (f"{kind.name} ({count})", kind.colour)
        for index, (kind, count) in enumerate(zip(types, counts, strict=True))
        if index > 0 or count > 0
    ]
