"""Small line charts, drawn with OpenCV in the style of the contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from run_utils.training.contact_sheet import (
    GAP,
    INK,
    LINE_HEIGHT,
    Colour,
    blank_sheet,
    measure_words,
    write_words,
)

CHART_SHAPE = (300, 460)
LEFT, RIGHT = 52, 16
TOP, BOTTOM = LINE_HEIGHT + GAP // 2, 2 * LINE_HEIGHT
"""Pixels around the plot for labels: a title above, numbers and the unit below."""
PLOT_COLOUR: Colour = (250, 250, 250)
GRID_COLOUR: Colour = (214, 214, 214)
NUM_TICKS = 5  # about


class Curve(NamedTuple):
    """Heights over bins, drawn as steps: heights (B,), of integers for counts, colour RGB."""

    heights: np.ndarray
    colour: Colour


def draw_steps(edges: np.ndarray, curves: Sequence[Curve], *, title: str, unit: str) -> np.ndarray:
    """Draw histograms over the same bins.

    Args:
        edges: (B + 1,) rising, of the bins.
        curves: heights of the bins, any number of them.
        title: set above.
        unit: of the edges, set below.

    Returns:
        ``CHART_SHAPE`` + (3,) uint8 RGB.
    """
    chart = blank_sheet(*CHART_SHAPE)
    bottom, right = CHART_SHAPE[0] - BOTTOM, CHART_SHAPE[1] - RIGHT
    chart[TOP:bottom, LEFT:right] = PLOT_COLOUR
    highest = max((float(curve.heights.max(initial=0)) for curve in curves), default=0) or 1.0
    y_ticks = find_ticks(0, highest)
    if all(curve.heights.dtype.kind in "iu" for curve in curves):
        y_ticks = [tick for tick in y_ticks if tick == round(tick)]
    low, high, top = float(edges[0]), float(edges[-1]), max(highest, y_ticks[-1])
    for tick in y_ticks:
        row = round(bottom - tick / top * (bottom - TOP))
        chart[row, LEFT:right] = GRID_COLOUR
        words = f"{tick:,g}"
        write_words(chart, words, (row - LINE_HEIGHT // 2 - 1, LEFT - measure_words(words) - GAP // 2))
    for tick in find_ticks(low, high):
        column = round(LEFT + (tick - low) / (high - low) * (right - LEFT))
        chart[TOP:bottom, min(column, right - 1)] = GRID_COLOUR
        words = f"{tick:,g}"
        write_words(chart, words, (bottom, column - measure_words(words) // 2))
    columns = LEFT + (edges - low) / (high - low) * (right - LEFT)
    for curve in curves:
        rows = bottom - curve.heights / top * (bottom - TOP)
        _draw_line(
            chart,
            np.repeat(columns, 2),
            np.concatenate([[bottom], np.repeat(rows, 2), [bottom]]),
            curve.colour,
        )
    write_words(chart, title, (0, LEFT))
    write_words(chart, unit, (bottom + LINE_HEIGHT - GAP // 2, (LEFT + right - measure_words(unit)) // 2))
    return chart


def find_ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from ``low`` to ``high``, multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / NUM_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _draw_line(chart: np.ndarray, columns: np.ndarray, rows: np.ndarray, colour: Colour) -> None:
    """Draw a line in place, edged with ink so that light colours are seen on paper."""
    points = np.stack([columns, rows], axis=1).round().astype(np.int32)[:, None]
    for thickness, paint in ((4, INK), (2, colour)):
        cv2.polylines(chart, [points], False, paint, thickness, cv2.LINE_AA)
