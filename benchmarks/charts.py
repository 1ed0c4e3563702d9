"""Charts of figures as SVG files that stand alone: bars of ratios, and curves over the size of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH = 860
LETTER = 6.4  # px, about the width of a letter of 12 px
LONGEST_LABEL = 84  # letters
ROW, BAR = 22, 13  # px: from one bar to the next, and a bar's height
TOP, BOTTOM, RIGHT = 34, 40, 66
CURVE_LEFT, CURVE_HEIGHT = 70, 220
COLOURS = ("#2f6f9f", "#c8642a", "#4d8b54", "#8a5a9e")
SLOWER = "#b03a3a"
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.tick{fill:#555;text-anchor:middle}.end{text-anchor:end}"
    ".title{font-weight:600}.grid{stroke:#ddd}.one{stroke:#555}.aim{stroke:#111;stroke-width:2.5}"
)

Place = Callable[[float], float]


class Bar(NamedTuple):
    """One bar.

    Attributes:
        label: what was measured.
        ratio: how many times better than the other way; above 0.
        asked: the ratio that was aimed at, or None.
    """

    label: str
    ratio: float
    asked: float | None = None


def ratio_bars(bars: Sequence[Bar], title: str) -> str:
    """Return a chart of ratios on a logarithmic axis: bars start at 1, a black line stands at what was asked."""
    labels = [_shorten(bar.label) for bar in bars]
    left = 20 + LETTER * max(map(len, labels))
    values = [1.0, 10.0, *(bar.ratio for bar in bars), *(bar.asked for bar in bars if bar.asked)]
    place = _logarithmic(min(values), max(values), left, WIDTH - RIGHT)
    bottom = TOP + ROW * len(bars)
    parts = [_text(12, 20, title, "title")]
    for tick in _decades(min(values), max(values)):
        parts.append(_line((place(tick), TOP - 4), (place(tick), bottom), "one" if tick == 1 else "grid"))
        parts.append(_text(place(tick), bottom + 16, f"{tick:g}", "tick"))
    for row, (label, bar) in enumerate(zip(labels, bars, strict=True)):
        parts.append(_text(left - 8, TOP + ROW * row + BAR - 2, label, "end"))
        parts += _bar(bar, place, TOP + ROW * row)
    axis = "times better than the other way; black: what was asked"
    parts.append(_text((left + WIDTH - RIGHT) / 2, bottom + 34, axis, "tick"))
    return _svg(parts, bottom + BOTTOM, title)


def size_curves(curves: Mapping[str, Sequence[tuple[float, float]]], title: str, x_name: str) -> str:
    """Return a chart of curves: the first axis logarithmic with a tick at each point, the second from 0.

    Args:
        curves: points (x, y) by name, x above 0, y at least 0.
        title: what the second axis shows, with its unit.
        x_name: what the first axis shows, with its unit.
    """
    points = [point for curve in curves.values() for point in curve]
    sizes, ticks = sorted({x for x, _ in points}), _round_ticks(max(y for _, y in points))
    bottom = TOP + CURVE_HEIGHT
    across = _logarithmic(sizes[0] / 1.3, sizes[-1] * 1.3, CURVE_LEFT, WIDTH - RIGHT)

    def up(value: float) -> float:
        return bottom - value / ticks[-1] * CURVE_HEIGHT

    parts = [_text(12, 20, title, "title")]
    for tick in ticks:
        parts.append(_line((CURVE_LEFT, up(tick)), (WIDTH - RIGHT, up(tick)), "grid"))
        parts.append(_text(CURVE_LEFT - 8, up(tick) + 4, f"{tick:g}", "end"))
    parts += [_text(across(x), bottom + 16, f"{x:g}", "tick") for x in sizes]
    parts.append(_text((CURVE_LEFT + WIDTH - RIGHT) / 2, bottom + 34, x_name, "tick"))
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [(across(x), up(y), y) for x, y in sorted(curve)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y, _ in places]
        parts += [_text(x, y - 9, f"{value:.3g}", "tick") for x, y, value in places]
        parts += _key(name, colour, CURVE_LEFT + 150 * number, bottom + 46)
    return _svg(parts, bottom + BOTTOM + 28, title)


def _key(name: str, colour: str, left: float, top: float) -> list[str]:
    square = f'<rect x="{left}" y="{top}" width="12" height="12" fill="{colour}"/>'
    return [square, _text(left + 18, top + 10, name)]


def _bar(bar: Bar, place: Place, top: float) -> list[str]:
    start, end = sorted((place(1.0), place(bar.ratio)))
    colour = COLOURS[0] if bar.ratio >= 1 else SLOWER
    parts = [
        f'<rect x="{start:.1f}" y="{top}" width="{max(end - start, 1):.1f}" height="{BAR}" fill="{colour}"/>'
    ]
    if bar.asked:
        aim = place(bar.asked)
        parts.append(_line((aim, top - 3), (aim, top + BAR + 3), "aim"))
        end = max(end, aim) if bar.asked < 1.5 * bar.ratio else end  # its number stands beside the line
    return [*parts, _text(end + 6, top + BAR - 2, f"{bar.ratio:.3g}")]


def _shorten(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1].rstrip() + "…"


def _logarithmic(low: float, high: float, left: float, right: float) -> Place:
    scale = (right - left) / math.log(high / low)
    return lambda value: left + math.log(value / low) * scale


def _decades(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10, 20 … within a range; only powers of ten where it spans more than three."""
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]


def _round_ticks(largest: float) -> list[float]:
    """Return round values from 0, about five, the last at least the largest."""
    rough = (largest or 1) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [step * index for index in range(math.ceil(largest / step - 1e-9) + 1)] if largest else [0.0, 1.0]


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{name}>{escape(text)}</text>'


def _line(start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
    return f'<path d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}" class="{kind}"/>'


def _svg(parts: Sequence[str], height: float, name: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(name)}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )
