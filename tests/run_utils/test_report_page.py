"""The report's page stands alone, says what it was given, and sorts; its tables are LaTeX that compiles."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metrics.bootstrap import Estimate
from run_utils.report.charts import HEIGHT, WIDTH, count_scatter, size_bars
from run_utils.report.content import ByGroup, Confusion, Example, ImageTable, Report, ScoreGroup
from run_utils.report.latex import escape, to_latex
from run_utils.report.page import format_number, render, shade, write_page

NAN = math.nan


@pytest.fixture
def report() -> Report:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    names = ["image_2", "image_10", "<b>odd & name</b>"]
    return Report(
        title="Nuclei <of> the test",
        facts={"predicted": "outputs/run & more"},
        groups=[
            ScoreGroup(
                "Segmentation", {"PQ": Estimate(0.5, 0.4, 0.6), "AJI": Estimate(0.25, NAN, NAN)}, "Means."
            ),
            ScoreGroup("Counts", {"R²": Estimate(-1.5, -2.0, 12.34)}),
        ],
        by_group=[
            ByGroup(
                "By type", ["round", "long_ish"], ["PQ", "F_c"], {("round", "PQ"): Estimate(0.625, 0.5, 0.75)}
            ),
        ],
        images=ImageTable(names, ["PQ", "F_d"], np.array([[0.5, NAN], [0.25, 0.75], [0.125, 0.5]])),
        confusion=Confusion(["round", "long", "unpaired"], np.array([[6, 2, 2], [0, 5, 0], [1, 3, 0]])),
        sizes={
            "below 50 px": Estimate(0.5, 0.4, 0.6),
            "50 to 99 px": Estimate(NAN, NAN, NAN),
            "from 100 px": Estimate(1.0, NAN, NAN),
        },
        counts=np.array([[10, 12], [20, 20], [3, 0]]),
        best=[Example("image_2", 0.5, picture, picture)],
        worst=[Example("image_10", 0.25, picture, picture)],
        remarks=["image_7: no prediction"],
    )


def test_the_page_needs_nothing_beside_it(report: Report) -> None:
    page = render(report)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", page))
    assert not re.search(r"<(link|iframe|script src)", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 4 and all(source.startswith("data:image/webp;base64,") for source in sources)


def test_names_of_files_are_text_and_never_markup(report: Report) -> None:
    page = render(report)
    assert "<b>odd" not in page and "&lt;b&gt;odd &amp; name&lt;/b&gt;" in page
    assert "Nuclei &lt;of&gt; the test" in page


def test_values_intervals_and_remarks_stand_in_the_page(report: Report) -> None:
    page = render(report)
    for words in (
        "0.400 to 0.600",
        "-2.000 to 12.3",
        "image_7: no prediction",
        "outputs/run &amp; more",
        "invented",
    ):
        assert words in page
    assert page.count("<svg") == 2


def test_what_is_not_there_is_left_out(report: Report) -> None:
    page = render(replace(report, confusion=None, sizes={}, counts=None, best=(), worst=(), remarks=()))
    for words in ("<svg", "<img", "invented", "Best images", "Remarks", "Where it goes"):
        assert words not in page


def test_undefined_scores_are_a_dash() -> None:
    assert [format_number(value) for value in (NAN, 0.12345, -1.5, 12.34, 12345.6)] == [
        "–", "0.123", "-1.500", "12.3", "12,345.6",
    ]  # fmt: skip


def test_cells_of_the_confusion_are_shares_of_their_row(report: Report) -> None:
    assert report.confusion is not None
    rows = shade(report.confusion)
    assert rows[0] == [(6, 0.6), (2, 0.2), (2, 0.2)]
    assert shade(Confusion(["a", "unpaired"], np.zeros((2, 2), np.int64)))[0] == [(0, 0.0), (0, 0.0)]


def test_points_lie_where_their_counts_say(report: Report) -> None:
    assert report.counts is not None
    chart = count_scatter(report.counts, report.images.names)
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart)
    places = np.array(circles, np.float64)
    assert len(places) == 3 and (places >= 0).all() and (places <= [WIDTH, HEIGHT]).all()
    start, end = (np.array(point, np.float64) for point in re.findall(r"[ML]([\d.]+) ([\d.]+)", chart)[-2:])
    share = (places - start) / (end - start)
    assert share[:, 0] * 10 / share[0, 0] == pytest.approx([10, 20, 3], abs=0.1)
    assert share[1, 0] == pytest.approx(share[1, 1], abs=0.01)  # as many true as predicted: on the line
    assert "&lt;b&gt;odd" in chart


def test_bars_are_as_high_as_their_pq(report: Report) -> None:
    heights = [
        float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)"', size_bars(report.sizes))
    ]
    assert len(heights) == 2 and heights[1] == pytest.approx(2 * heights[0])


def test_a_report_of_no_nuclei_is_drawn(report: Report) -> None:
    empty = replace(
        report,
        counts=np.zeros((3, 2), np.int64),
        sizes={"any size": Estimate(NAN, NAN, NAN)},
    )
    charts = re.findall(r"<svg.*?</svg>", render(empty), flags=re.DOTALL)
    assert len(charts) == 2 and not any("nan" in chart.replace("name", "") for chart in charts)


def test_an_older_page_is_replaced_whole(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_page(report, path)
    assert path.read_text(encoding="utf-8") == render(report)
    assert list(tmp_path.iterdir()) == [path]


def test_latex_has_a_cell_for_each_heading_and_escapes_what_it_must(report: Report) -> None:
    text = to_latex(report)
    assert escape(r"50 % of a_b & c\d") == r"50 \% of a\_b \& c\textbackslash{}d"
    tables = re.findall(r"\\begin{tabular}{(l r*|lr*)}(.*?)\\end{tabular}", text, flags=re.DOTALL)
    assert len(tables) == 6
    for columns, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
    assert r"0.400--0.600" in text and r"R$^2$" in text


def test_latex_has_the_confusion_sizes_and_the_intervals_of_types(report: Report) -> None:
    lines = to_latex(report).splitlines()
    for first, *others in (
        ["round & 0.625 &  \\\\", " & (0.500--0.750) &  \\\\"],
        ["below 50 px & 0.500 & 0.400--0.600 \\\\"],
        [" & round & long & missed \\\\", "\\midrule", "round & 6 & 2 & 2 \\\\"],
        ["invented & 1 & 3 &  \\\\"],
    ):
        place = lines.index(first)
        assert lines[place + 1 : place + 1 + len(others)] == others
    none = replace(report, confusion=None, sizes={})
    assert "missed" not in to_latex(none) and "Area" not in to_latex(none)


@pytest.mark.browser
def test_a_click_on_a_heading_sorts_with_undefined_values_last(report: Report, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs Chromium")

    def order_after(clicks: int, column: int) -> list[str]:
        script = (
            f"<script>for (let i = 0; i < {clicks}; i++) "
            f'document.querySelectorAll("table.sortable button")[{column}].click();</script>'
        )
        path = tmp_path / "page.html"
        path.write_text(render(report).replace("</body>", f"{script}</body>"), encoding="utf-8")
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--dump-dom",
            f"--user-data-dir={tmp_path / 'chromium'}",
        ]
        page = subprocess.run(
            [browser, *options, path.as_uri()], capture_output=True, text=True, check=True, timeout=120
        ).stdout
        body = page.split('class="sortable"')[1].split("<tbody>")[1]
        return re.findall(r'<th scope="row">(.*?)</th>', body)

    odd = "&lt;b&gt;odd &amp; name&lt;/b&gt;"
    assert order_after(1, column=1) == [odd, "image_10", "image_2"]
    assert order_after(2, column=1) == ["image_2", "image_10", odd]
    assert order_after(1, column=2) == [odd, "image_10", "image_2"]
    assert order_after(2, column=2) == ["image_10", odd, "image_2"]
    assert order_after(1, column=0)[1:] == ["image_2", "image_10"]
