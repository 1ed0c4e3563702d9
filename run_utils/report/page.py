"""The report as one HTML page: pictures, styles and the few lines of script stand in it, nothing is fetched."""

from __future__ import annotations

import base64
import math
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from metrics.bootstrap import Estimate
from run_utils.files import replacing
from run_utils.report.charts import count_scatter, size_bars
from run_utils.report.content import Confusion, Report

TEMPLATES = Path(__file__).parent / "template"
WEBP_QUALITY = 70


def write_page(report: Report, path: Path) -> None:
    """Write the page, under a temporary name first.

    Raises:
        OSError: if the folder cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """Return the page as text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "interval": format_interval, "picture": to_data_uri}
    return environment.get_template("page.html").render(
        report=report,
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "page.js").read_text(encoding="utf-8"),
        scatter=None if report.counts is None else count_scatter(report.counts, report.images.names),
        bars=size_bars(report.sizes) if report.sizes else None,
        confusion=None if report.confusion is None else shade(report.confusion),
        examples=[("Best images", report.best), ("Worst images", report.worst)],
        is_undefined=math.isnan,
    )


def format_number(value: float) -> str:
    """Return a score with three decimals, a count or a larger number with fewer; a dash where undefined."""
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def format_interval(estimate: Estimate) -> str:
    """Return the interval of an estimate, "–" where there is none."""
    if math.isnan(estimate.low):
        return "–"
    return f"{format_number(estimate.low)} to {format_number(estimate.high)}"


def shade(confusion: Confusion) -> list[list[tuple[int, float]]]:
    """Return each count with its share of its row, 0..1: how dark its cell is drawn."""
    totals = np.maximum(confusion.counts.sum(axis=1, keepdims=True), 1)
    shares = confusion.counts / totals
    return [
        list(zip(row, share, strict=True))
        for row, share in zip(confusion.counts.tolist(), shares.tolist(), strict=True)
    ]


def to_data_uri(picture: np.ndarray) -> str:
    """Return an (h, w, 3) uint8 RGB picture as the address of itself, WebP inside."""
    bgr = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])
    return "data:image/webp;base64," + base64.b64encode(content.tobytes()).decode("ascii")
