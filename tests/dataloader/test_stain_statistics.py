"""Statistics of a stain that cannot be right are refused in one line, wherever they come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataloader.stain import PUBLISHED_TARGET, StainStatistics

STAINS = {"method": "macenko", "stain_matrix": [[0.6, 0.2], [0.7, 0.8], [0.4, 0.5]]}
LAB = {"method": "reinhard", "lab_mean": [64, 27, -21]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**STAINS, "max_concentrations": [0, 1]}, r"max_concentrations=\[0, 1\] must be above 0"),
        ({**STAINS, "max_concentrations": [1, -1]}, "max_concentrations.* must be above 0"),
        ({**LAB, "lab_std": [11, 0, 7]}, r"lab_std=\[11, 0, 7\] must be above 0"),
        (
            {**STAINS, "stain_matrix": [[0.6, 0], [0.7, 0], [0.4, 0]], "max_concentrations": [1, 1]},
            "stain_matrix.* has a column of zeros",
        ),
        ({"method": "identity", "intensity": "255"}, "intensity=255 must be a number above 0"),
        ({"method": "identity", "intensity": None}, "intensity=None must be a number above 0"),
        ({"method": "identity", "intensity": True}, "intensity=True must be a number above 0"),
        ({"method": "identity", "intensity": float("nan")}, "intensity=nan must be a number above 0"),
    ],
)
def test_numbers_that_no_stain_has_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*; "):
        StainStatistics.from_dict(values)


def test_a_file_of_such_numbers_is_named(tmp_path: Path) -> None:
    path = tmp_path / "target.json"
    path.write_text(json.dumps({**STAINS, "max_concentrations": [0, 1]}))
    with pytest.raises(ValueError, match=r"target\.json: max_concentrations"):
        StainStatistics.load(path)


@pytest.mark.parametrize("intensity", [240, 240.0, np.float32(240)])
def test_any_real_number_is_an_intensity(intensity: float) -> None:
    statistics = StainStatistics("macenko", **_stains_of(PUBLISHED_TARGET), intensity=intensity)
    assert StainStatistics.from_dict(statistics.to_dict()) == PUBLISHED_TARGET


def _stains_of(statistics: StainStatistics) -> dict:
    return {name: getattr(statistics, name) for name in ("stain_matrix", "max_concentrations")}
