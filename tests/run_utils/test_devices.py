"""Which devices a setting names."""

from __future__ import annotations

import pytest
import torch

from run_utils.devices import resolve_devices

CPU = torch.device("cpu")


def test_devices_are_joined_by_commas() -> None:
    assert resolve_devices("cpu") == [CPU]
    assert resolve_devices("cpu, cpu") == [CPU, CPU]


def test_all_names_every_gpu() -> None:
    count = torch.cuda.device_count()
    if count:
        assert resolve_devices("all") == [torch.device("cuda", index) for index in range(count)]
    else:
        with pytest.raises(ValueError, match="use device=cpu"):
            resolve_devices("all")


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="cuda:99 is not there"):
        resolve_devices("cuda:99,cpu")
    with pytest.raises(ValueError, match="'tpuu' is not known"):
        resolve_devices("cpu,tpuu")
