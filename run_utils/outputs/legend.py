"""The strip below a picture that says what each colour stands for."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_PX = (12, 28)
WHITE = (255, 255, 255)
INK = (30, 30, 30)

Entry = tuple[str, tuple[int, int, int]]


def add_legend(canvas: np.ndarray, entries: list[Entry]) -> np.ndarray:
    """Return a picture with a legend below; one too narrow for an entry is widened with white.

    Args:
        canvas: (H, W, 3) uint8 RGB.
        entries: text and RGB colour of each entry.
    """
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
