"""Charts as SVG text: colours are the page's, so that they follow its light and dark and its print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from metrics.bootstrap import Estimate

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 14, 46
"""Margins around the plot, for axes and their names."""


def count_scatter(counts: np.ndarray, names: Sequence[str]) -> str:
    """Draw true against predicted nuclei of each image, with the line on which both are equal.

    Args:
        counts: (N, 2) int64, N at least 1.
        names: of the N images, shown where the pointer rests.
    """
    ticks = _ticks(float(counts.max()) * 1.05)
    scale = _Scale(ticks[-1], ticks[-1])
    dots = "".join(
        f'<circle cx="{scale.x(true):.1f}" cy="{scale.y(predicted):.1f}" r="4" class="dot">'
        f"<title>{escape(name)}: {true} true, {predicted} predicted</title></circle>"
        for name, (true, predicted) in zip(names, counts.tolist(), strict=True)
    )
    line = f'<path d="M{scale.x(0)} {scale.y(0)}L{scale.x(ticks[-1])} {scale.y(ticks[-1])}" class="guide"/>'
    axes = _axes(scale, ticks, ticks, "true nuclei", "predicted nuclei")
    return _svg(axes + line + dots, "Nuclei in each image, true and predicted")


def size_bars(sizes: Mapping[str, Estimate]) -> str:
    """Draw PQ, with its interval, for each range of sizes; those without nuclei are empty places."""
    scale = _Scale(len(sizes), 1.0)
    parts = [_axes(scale, [], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], "area of the nucleus in px", "PQ")]
    width = scale.x(1) - scale.x(0) - 6
    for index, (name, pq) in enumerate(sizes.items()):
        left, middle = scale.x(index) + 3, scale.x(index + 0.5)
        parts.append(
            f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 16}" class="tick">{escape(_shorten(name))}</text>'
        )
        if np.isnan(pq.value):
            continue
        top, height = scale.y(pq.value), scale.y(0) - scale.y(pq.value)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" class="bar">'
            f"<title>{escape(name)}: PQ {pq.value:.3f}</title></rect>"
            f'<text x="{left + 4:.1f}" y="{scale.y(0) - 6:.1f}" class="inside">{pq.value:.2f}</text>'
        )
        if not np.isnan(pq.low):
            parts.append(
                f'<path d="M{middle:.1f} {scale.y(pq.low):.1f}V{scale.y(pq.high):.1f}" class="whisker"/>'
            )
    return _svg("".join(parts), "PQ by area of the nuclei")


def _shorten(name: str) -> str:
    """Return "below 50 px" as "<50", "50 to 79 px" as "50–79" and "from 120 px" as "≥120"."""
    short = name.removesuffix(" px").replace(" to ", "–")
    return short.replace("below ", "<").replace("from ", "≥")


class _Scale:
    """From values, both axes starting at 0, to places in the picture."""

    def __init__(self, largest_x: float, largest_y: float) -> None:
        self._x = (WIDTH - LEFT - RIGHT) / (largest_x or 1)
        self._y = (HEIGHT - TOP - BOTTOM) / (largest_y or 1)

    def x(self, value: float) -> float:
        return LEFT + value * self._x

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value * self._y


def _axes(scale: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str, y_name: str) -> str:
    parts = []
    for tick in y_ticks:
        y = scale.y(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="tick end">{tick:g}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{scale.x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" class="tick">{tick:g}</text>')
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{middle_x}" y="{HEIGHT - 8}" class="axis">{escape(x_name)}</text>')
    turn = f"rotate(-90 14 {middle_y})"
    parts.append(f'<text x="14" y="{middle_y}" transform="{turn}" class="axis">{escape(y_name)}</text>')
    return "".join(parts)


def _ticks(largest: float) -> list[float]:
    """Return round values from 0, about five, the last at least ``largest``."""
    rough = max(largest, 1) / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [float(step * index) for index in range(int(np.ceil(largest / step)) + 1)]


def _svg(content: str, name: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">{content}</svg>'
