"""Draw patches beside what the network should make of them, to check data before training and to log images.

``draw_contact_sheet`` makes one page of a batch; the panels it is made of serve the training log as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from models.hovernet.channels import BACKGROUND, HORIZONTAL, VERTICAL
from models.hovernet.targets import Targets
from run_utils.files import replacing

Colour = tuple[int, int, int]
"""RGB, each 0..255."""

PAPER: Colour = (234, 234, 234)
"""Grey, for maps are white where there is nothing."""
INK: Colour = (40, 40, 40)
FRAME: Colour = (255, 214, 0)
OUTLINE: Colour = (0, 255, 90)
LOWEST: Colour = (33, 102, 172)
"""Blue for HV -1; 0 is white."""
HIGHEST: Colour = (178, 24, 43)
"""Red for HV +1."""

PANEL_SIZE = 256
"""Side of a panel in pixels."""
GAP = 8
"""Pixels between panels and around them."""
LINE_HEIGHT = 24
"""Pixels that a line of text takes."""
FONT_SCALE = 0.45
"""Text size as a factor of OpenCV's own; capitals about 10 pixels high."""
SCALE_WIDTH = 120
"""Pixels that the legend's scale of HV colours takes."""


def write_contact_sheet(
    path: Path,
    images: Tensor,
    targets: Targets,
    *,
    type_names: Sequence[str] = (),
    type_colours: Sequence[Colour] = (),
    before: Sequence[tuple[str, Tensor]] = (),
) -> None:
    """Write ``draw_contact_sheet`` as a PNG under a temporary name, then move it to ``path``.

    Args:
        path: the PNG file; its folder must exist, an older file of this name is replaced.
        images: see ``draw_contact_sheet``, as for the arguments that follow.
        targets: see there.
        type_names: see there.
        type_colours: see there.
        before: see there.

    Raises:
        ValueError: as ``draw_contact_sheet``.
        OSError: if the folder cannot be written.
    """
    sheet = draw_contact_sheet(
        images, targets, type_names=type_names, type_colours=type_colours, before=before
    )
    write_sheet(path, sheet)


def write_sheet(path: Path, sheet: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 RGB picture as a PNG under a temporary name, then move it to ``path``."""
    _, content = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    with replacing(path) as temporary:
        temporary.write_bytes(content.tobytes())


def draw_contact_sheet(
    images: Tensor,
    targets: Targets,
    *,
    type_names: Sequence[str] = (),
    type_colours: Sequence[Colour] = (),
    before: Sequence[tuple[str, Tensor]] = (),
) -> np.ndarray:
    """Draw a row of panels for each patch: its stages, then nuclei, horizontal map, vertical map, and types.

    The last stage is what the network sees, with its output framed; the panels after it show the output alone.

    Args:
        images: (N, 3, H, W) uint8 RGB patches, N at least 1.
        targets: maps of (h, w) pixels, the central part of the patches, on any device.
        type_names: the T types' names, background first; unused without types.
        type_colours: the T types' RGB colours.
        before: earlier stages of the patches: a name, and (N, 3, H, W) uint8 RGB.

    Returns:
        (rows, columns, 3) uint8 RGB, with headings above and a legend below.

    Raises:
        ValueError: if the batch is empty, the maps are not its, or a type has no name or colour.
    """
    _check(images, targets, type_names, type_colours)
    headings = [name.capitalize() for name, _ in before]
    headings += ["As the network sees it", "Nuclei", "Horizontal map", "Vertical map"]
    legend = [swatch_key("output area", FRAME), _scale_key()]
    if targets.types is not None:
        headings.append("Types")
        legend += [
            swatch_key(name, colour)
            for name, colour in zip(type_names[BACKGROUND + 1 :], type_colours[BACKGROUND + 1 :], strict=True)
        ]
    rows = [
        [_to_panel(stage[index]) for _, stage in before] + _draw_row(images, targets, index, type_colours)
        for index in range(len(images))
    ]
    return stack_panels(rows, headings, legend)


def stack_panels(
    rows: Sequence[Sequence[np.ndarray]],
    headings: Sequence[str],
    legend: Sequence[np.ndarray] = (),
    *,
    shape: tuple[int, int] = (PANEL_SIZE, PANEL_SIZE),
) -> np.ndarray:
    """Lay panels out as a table on grey paper.

    Args:
        rows: each a list of (H, W, 3) uint8 RGB panels, one for each heading; panels of any size are fitted
            to ``shape``.
        headings: one for each column.
        legend: (LINE_HEIGHT, W, 3) uint8 RGB keys, set below in lines as long as the table is wide.
        shape: (height, width) of a panel in pixels.

    Returns:
        (rows, columns, 3) uint8 RGB.
    """
    pitch_y, pitch_x = shape[0] + GAP, shape[1] + GAP
    legend_lines = _break_lines(legend, len(headings) * pitch_x - GAP)
    legend_top = LINE_HEIGHT + len(rows) * pitch_y + GAP
    sheet = blank_sheet(legend_top + len(legend_lines) * LINE_HEIGHT, GAP + len(headings) * pitch_x)
    for column, heading in enumerate(headings):
        write_words(sheet, heading, (0, GAP + column * pitch_x))
    for index, row in enumerate(rows):
        for column, panel in enumerate(row):
            place = (LINE_HEIGHT + index * pitch_y, GAP + column * pitch_x)
            _paste(sheet, fit_panel(panel, shape), place)
    for index, line in enumerate(legend_lines):
        left = GAP
        for key in line:
            _paste(sheet, key, (legend_top + index * LINE_HEIGHT, left))
            left += key.shape[1] + 2 * GAP
    return sheet


def fit_panel(panel: np.ndarray, shape: tuple[int, int] = (PANEL_SIZE, PANEL_SIZE)) -> np.ndarray:
    """Return an (H, W, 3) uint8 panel in another shape: whole pixels when enlarged, means when reduced."""
    if panel.shape[:2] == shape:
        return panel
    is_enlarged = all(new >= old for new, old in zip(shape, panel.shape, strict=False))
    method = cv2.INTER_NEAREST if is_enlarged else cv2.INTER_AREA
    return cv2.resize(np.ascontiguousarray(panel), shape[::-1], interpolation=method)


def hv_to_rgb(hv: np.ndarray) -> np.ndarray:
    """Colour one HV map: blue at -1 and below, white at 0, red at 1 and above.

    Args:
        hv: (H, W) float, meant for -1..1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    share = np.clip(hv, -1, 1)[..., None]
    end = np.where(share < 0, LOWEST, HIGHEST)
    return np.rint(255 + np.abs(share) * (end - 255.0)).astype(np.uint8)


def types_to_rgb(types: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Colour a type map.

    Args:
        types: (H, W) integer in 0..T-1.
        colours: T RGB colours, background first.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if a type has no colour.
    """
    if types.size and not 0 <= types.min() <= types.max() < len(colours):
        raise ValueError(
            f"types reach {types.min()}..{types.max()} but there are {len(colours)} colours; "
            "give one for each type, background first"
        )
    return np.asarray(colours, dtype=np.uint8).reshape(-1, 3)[types]


def outline(image: np.ndarray, label_map: np.ndarray, colour: Colour = OUTLINE) -> np.ndarray:
    """Draw the edge of each nucleus, a pixel on either side of it, on a copy of the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        label_map: (H, W) integer or bool, 0 background; in a binary map nuclei that touch share one edge.
        colour: RGB.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    is_edge = np.zeros(label_map.shape, dtype=bool)
    for axis in (0, 1):
        first, second = (np.moveaxis(is_edge, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        changes = np.moveaxis(np.diff(label_map.astype(np.int64), axis=axis) != 0, axis, 0)
        first |= changes
        second |= changes
    outlined = image.copy()
    outlined[is_edge] = colour
    return outlined


def _check(
    images: Tensor, targets: Targets, type_names: Sequence[str], type_colours: Sequence[Colour]
) -> None:
    num, _, height, width = images.shape
    num_maps, map_height, map_width = targets.nuclei.shape
    if num == 0 or num_maps != num or map_height > height or map_width > width:
        raise ValueError(
            f"targets of {tuple(targets.nuclei.shape)} do not belong to images of {tuple(images.shape)}; "
            "give at least one patch and the maps of its central part"
        )
    if len(type_names) != len(type_colours):
        raise ValueError(
            f"{len(type_names)} type_names do not match {len(type_colours)} type_colours; "
            "give one of each for every type, background first"
        )


def _draw_row(images: Tensor, targets: Targets, index: int, colours: Sequence[Colour]) -> list[np.ndarray]:
    """Draw the panels of one patch, each (PANEL_SIZE, PANEL_SIZE, 3) uint8 RGB."""
    image = _to_panel(images[index])
    nuclei = targets.nuclei[index].cpu().numpy()
    hv = targets.hv[index].float().cpu().numpy()
    height, width = nuclei.shape
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    output = image[top : top + height, left : left + width]
    enlarged = cv2.resize(nuclei.astype(np.uint8), (PANEL_SIZE, PANEL_SIZE), interpolation=cv2.INTER_NEAREST)
    panels = [
        _frame(image, (top, left, top + height, left + width)),
        outline(fit_panel(output), enlarged),
        fit_panel(hv_to_rgb(hv[HORIZONTAL])),
        fit_panel(hv_to_rgb(hv[VERTICAL])),
    ]
    if targets.types is not None:
        panels.append(fit_panel(types_to_rgb(targets.types[index].cpu().numpy(), colours)))
    return panels


def _to_panel(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def _frame(image: np.ndarray, box_yxyx: tuple[int, int, int, int]) -> np.ndarray:
    """Return the image as a panel with the half-open box framed, two pixels wide and just outside it."""
    scale_y, scale_x = PANEL_SIZE / image.shape[0], PANEL_SIZE / image.shape[1]
    top, left, bottom, right = (
        round(edge * scale) for edge, scale in zip(box_yxyx, (scale_y, scale_x) * 2, strict=True)
    )
    panel = fit_panel(image).copy()
    return cv2.rectangle(panel, (left - 1, top - 1), (right, bottom), FRAME, thickness=2)


def _scale_key() -> np.ndarray:
    """Draw the key to HV colours: a scale with its ends named."""
    scale = hv_to_rgb(np.tile(np.linspace(-1, 1, SCALE_WIDTH, dtype=np.float32), (LINE_HEIGHT - GAP, 1)))
    low, high = _text("HV  -1"), _text("+1")
    key = blank_sheet(LINE_HEIGHT, low.shape[1] + SCALE_WIDTH + high.shape[1] + 2 * GAP)
    _paste(key, low, (0, 0))
    _paste(key, scale, (GAP // 2, low.shape[1] + GAP))
    _paste(key, high, (0, low.shape[1] + SCALE_WIDTH + 2 * GAP))
    return key


def swatch_key(name: str, colour: Colour) -> np.ndarray:
    """Draw a legend's key: a square in the colour, and its name."""
    text, side = _text(name), LINE_HEIGHT - GAP
    key = blank_sheet(LINE_HEIGHT, side + GAP + text.shape[1])
    key[GAP // 2 : GAP // 2 + side, :side] = colour
    _paste(key, text, (0, side + GAP))
    return key


def measure_words(words: str) -> int:
    """Return how many pixels wide words are."""
    return int(cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, FONT_SCALE, 1)[0][0])


def _text(words: str) -> np.ndarray:
    """Draw words on a strip of paper, (LINE_HEIGHT, W, 3) uint8."""
    strip = blank_sheet(LINE_HEIGHT, measure_words(words))
    write_words(strip, words, (0, 0))
    return strip


def write_words(sheet: np.ndarray, words: str, top_left: tuple[int, int]) -> None:
    """Write words on the sheet, in place, in a line of LINE_HEIGHT that starts at ``top_left`` (row, column)."""
    baseline = top_left[0] + LINE_HEIGHT - GAP
    cv2.putText(
        sheet, words, (top_left[1], baseline), cv2.FONT_HERSHEY_SIMPLEX, FONT_SCALE, INK, 1, cv2.LINE_AA
    )


def _break_lines(keys: Sequence[np.ndarray], width: int) -> list[list[np.ndarray]]:
    """Share keys out over lines of at most ``width`` pixels; a wider key has a line of its own."""
    lines: list[list[np.ndarray]] = []
    used = width
    for key in keys:
        if used + key.shape[1] > width or not lines:
            lines.append([])
            used = 0
        lines[-1].append(key)
        used += key.shape[1] + 2 * GAP
    return lines


def _paste(sheet: np.ndarray, panel: np.ndarray, top_left: tuple[int, int]) -> None:
    """Set a panel on the sheet, in place; what lies beyond the sheet is cut off."""
    top, left = top_left
    space = sheet[top : top + panel.shape[0], left : left + panel.shape[1]]
    space[:] = panel[: space.shape[0], : space.shape[1]]


def blank_sheet(height: int, width: int) -> np.ndarray:
    """Return (height, width, 3) uint8 of the paper's colour."""
    return np.full((height, width, 3), PAPER, dtype=np.uint8)
