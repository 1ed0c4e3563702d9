"""The page of all benchmarks, written from canned results, and its charts."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.charts import Bar, ratio_bars, size_curves
from benchmarks.figures import Figure
from benchmarks.page import write_page
from benchmarks.runs import DONE, FAILED, LEFT_OUT, Benchmark, Result

SVG = "{http://www.w3.org/2000/svg}"
MACHINE = {
    "commit": "0123456789", "is_changed": False, "time": "2026-01-02T03:04:05+00:00", "python": "3.12.1",
    "packages": {"torch": "2.11.0"}, "cpu": "A CPU, 2 CPUs", "memory_gib": 8.0, "gpu": "",
}  # fmt: skip
SCALING = [Figure(f"{size} Mpx, lite", 1.0 + size / 100, "s/Mpx") for size in (1, 4, 16)]
SCALING += [
    Figure(f"{16 // size} images of {size} Mpx, lite, peak memory", 2.0, "GiB") for size in (1, 4, 16)
]


@pytest.fixture
def page(tmp_path: Path) -> str:
    rows = [
        Benchmark("first", "network", ("-m", "benchmarks.first")),
        Benchmark("broken", "network", ("-m", "benchmarks.broken")),
        Benchmark("scaling", "slides", ("-m", "benchmarks.scaling", "--sizes", "1")),
        Benchmark("absent", "slides", ("-m", "benchmarks.absent")),
        Benchmark("long", "slides", ("-m", "benchmarks.long"), minutes=90, is_asked_for=True),
    ]
    fast = Figure("fast | small", 2.0, "s", 20.0, "published windows", asked="at least 8 times")
    slow = Figure("slow", 4.0, "s", 20.0, "published windows", asked="at least 8 times")
    results = {
        "first": Result(DONE, "", [fast, slow], 60.0, MACHINE),
        "broken": Result(FAILED, "exit status 3: no such thing", [], 6.0, {**MACHINE, "cpu": "Another"}),
        "scaling": Result(DONE, "", SCALING, 6.0, {**MACHINE, "time": "2026-01-03T03:04:05+00:00"}),
        "absent": Result(LEFT_OUT, "chromium is not installed", environment=MACHINE),
    }
    (tmp_path / "performance").mkdir()
    (tmp_path / "performance" / "first.txt").write_text("printed\n")
    write_page(tmp_path / "performance.md", rows, results, title="Performance", text="Of this and that.")
    return (tmp_path / "performance.md").read_text()


def rows_with(page: str, text: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("|") and text in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_figure_is_a_row_with_its_command(page: str) -> None:
    (fast,) = rows_with(page, "fast")
    command = "`python -m benchmarks.first`"
    assert fast == [
        r"fast \| small", "2.00 s", "20.0 s (published windows)", "10.0", "at least 8 times", "yes", command,
    ]  # fmt: skip
    assert rows_with(page, "slow")[0][5] == "**no**"
    assert len(rows_with(page, "Mpx, lite")) == len(SCALING)
    assert all(len(row) == 7 for row in rows_with(page, "Mpx, lite"))


def test_the_page_says_what_was_not_reached(page: str) -> None:
    assert "Of 2 figures for which something was asked, 1 reach it." in page
    assert "- slow: 4.00 s" in page
    assert "- fast" not in page


def test_what_failed_lacked_something_or_was_not_asked_for_is_a_row(page: str) -> None:
    assert "**failed**: exit status 3: no such thing" in rows_with(page, "benchmarks.broken")[0][0]
    assert "**left out**: chromium is not installed" in rows_with(page, "benchmarks.absent")[0][0]
    assert "about 90 minutes" in rows_with(page, "benchmarks.long")[0][0]


def test_the_page_names_machine_versions_and_commit_and_results_of_another(page: str) -> None:
    assert "A CPU, 2 CPUs, 8 GiB of memory; 2026-01-03, commit 0123456; Python 3.12.1, torch 2.11.0." in page
    *_, broken = rows_with(page, "benchmarks.broken")
    assert "Another" in broken[3]
    *_, first = rows_with(page, "benchmarks.first`")
    assert first[2:4] == ["2026-01-02", "0123456"]


def test_all_that_the_page_links_is_there(page: str, tmp_path: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert sorted(links) == [
        "performance/first.txt", "performance/network_ratios.svg", "performance/slides_cost.svg",
        "performance/slides_peak_memory.svg",
    ]  # fmt: skip
    for link in links:
        assert (tmp_path / link).stat().st_size < 60_000
        if link.endswith(".svg"):
            assert ElementTree.parse(tmp_path / link).getroot().tag == f"{SVG}svg"


def test_bars_grow_with_the_logarithm_of_the_ratio() -> None:
    bars = [Bar("ten <times>", 10.0, asked=100.0), Bar("a hundred", 100.0), Bar("a tenth", 0.1)]
    root = ElementTree.fromstring(ratio_bars(bars, "ours & theirs"))
    background, *drawn = root.iter(f"{SVG}rect")
    widths = [float(bar.get("width", "")) for bar in drawn]
    assert widths == pytest.approx([widths[0], 2 * widths[0], widths[0]], abs=0.2)
    one = float(drawn[0].get("x", ""))
    assert float(drawn[2].get("x", "")) + widths[2] == pytest.approx(one, abs=0.2)
    (aim,) = [line.get("d", "") for line in root.iter(f"{SVG}path") if line.get("class") == "aim"]
    assert float(aim[1:].split()[0]) == pytest.approx(one + widths[1], abs=0.2)
    assert {"ten <times>", "ours & theirs"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_a_flat_curve_is_drawn_flat_and_a_doubled_value_twice_as_high() -> None:
    root = ElementTree.fromstring(size_curves({"a": [(1, 2.0), (64, 2.0)], "b": [(1, 4.0)]}, "cost", "Mpx"))
    heights = [float(dot.get("cy", "")) for dot in root.iter(f"{SVG}circle")]
    floor = max(float(line.get("d", "").split("L")[0].split()[1]) for line in root.iter(f"{SVG}path"))
    assert heights[0] == heights[1]
    assert floor - heights[2] == pytest.approx(2 * (floor - heights[0]), abs=0.2)
