"""What a figure says of itself: ratio, and whether it is what was asked."""

from __future__ import annotations

import pytest

from benchmarks.figures import FILE_VARIABLE, Figure, number, state
from benchmarks.runs import read_figures


@pytest.mark.parametrize(
    ("figure", "is_reached"),
    [
        (Figure("a", 2.0, "s", 20.0, asked="at least 10 times"), True),
        (Figure("a", 2.0, "s", 19.0, asked="at least 10 times"), False),
        (Figure("a", 20.0, "patches/s", 2.0, is_rate=True, asked="at least 10 times"), True),
        (Figure("a", 1.5, "s", asked="at most 1.5 s"), True),
        (Figure("a", 1.6, "s", asked="at most 1.5 s"), False),
        (Figure("a", 249.0, "patches/s", is_rate=True, asked="250 patches/s on an H200"), False),
        (Figure("a", 12.0, "%", asked="15%"), True),
        (Figure("a", 1.2, "times", asked="at most 1.1 times"), False),
        (Figure("a", 1500.0, "ms", asked="at most 1,500 ms"), True),
        (Figure("a", -0.001, "", asked="at most 0.002"), True),
        (Figure("a", 1.0, "s", asked="at least 2 times"), None),
        (Figure("a", 1.0, "GiB", asked="flat"), None),
        (Figure("a", 1.0, "s"), None),
    ],
)
def test_a_figure_tells_whether_it_is_what_was_asked(figure: Figure, is_reached: bool | None) -> None:
    assert figure.is_reached is is_reached


def test_a_ratio_says_how_often_ours_is_better() -> None:
    assert Figure("time", 2.0, "s", 8.0).ratio == 4.0
    assert Figure("rate", 2.0, "a second", 8.0, is_rate=True).ratio == 0.25
    assert Figure("alone", 2.0, "s").ratio is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.12345, "0.1235"),
        (0.0, "0"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_are_written_as_people_read_them(value: float, text: str) -> None:
    assert number(value) == text


def test_what_is_stated_is_printed_and_kept(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "figures"))
    figures = [Figure("µ", 1.0, "s", 2.0, "plainly", asked="at least 2 times"), Figure("b", 3.0, "ms")]
    for figure in figures:
        state(figure)
    assert read_figures(tmp_path / "figures") == figures
    assert "µ: 1.00 s, plainly: 2.00 s, 2.00 times (asked: at least 2 times)" in capsys.readouterr().out
