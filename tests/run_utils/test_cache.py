"""The cache is where the user says, and one that cannot be written does not end a run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from run_utils.cache import VARIABLE, cache_dir


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    assert cache_dir().is_dir()


def test_one_that_cannot_be_written_is_replaced_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setenv(VARIABLE, str(in_the_way / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert cache_dir().is_dir()
    assert "cannot be written" in caplog.text and VARIABLE in caplog.text
