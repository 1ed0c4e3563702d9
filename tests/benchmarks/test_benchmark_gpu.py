"""`benchmarks.gpu` as far as it can be tried without a GPU: the same code, tiny."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import benchmarks.gpu
from benchmarks.figures import FILE_VARIABLE
from benchmarks.gpu import files_with_gpu_tests, list_rows, run_within
from benchmarks.gpu_parts import FLOP_PER_PIXEL, TINY, measure_network
from benchmarks.runs import LEFT_OUT, Result, read_figures


def test_without_a_gpu_it_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("sys.argv", ["gpu", "--output", str(tmp_path)])
    assert benchmarks.gpu.main() == 2
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_network_part_states_share_and_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "figures"))
    measure_network(torch.device("cpu"), TINY, predictor="torch")
    rate, share, output = read_figures(tmp_path / "figures")
    assert (rate.unit, share.unit, output.unit) == ("TFLOP/s", "%", "Mpx/s")
    assert share.ours / 100 == pytest.approx(FLOP_PER_PIXEL * output.ours * 1e6 / (rate.ours * 1e12))
    assert output.ratio is not None and output.ratio > 0


def test_correctness_comes_first_and_all_of_it() -> None:
    rows = list_rows("cuda")
    assert [row.name for row in rows[:2]] == ["tests", "gpu_decode"]
    assert "tests/models/test_device_decode.py" in rows[0].command
    assert "tests/config/test_settings.py" not in files_with_gpu_tests()


def test_parts_for_which_no_time_is_left_are_said_to_be_left_out(tmp_path: Path) -> None:
    results: dict[str, Result] = {}
    run_within(0, list_rows("cuda"), results, tmp_path)
    assert {result.status for result in results.values()} == {LEFT_OUT}
    assert results["slide"].reason == "no time was left of 0 s"
