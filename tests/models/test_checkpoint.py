"""Checkpoints: official files, other type counts, and files that must be refused."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import torch

from models.hovernet.checkpoint import load_checkpoint, load_weights, save_checkpoint
from models.hovernet.lite import HoVerNetLite
from models.hovernet.network import HoVerNet


def _save_official(path: Path, network: HoVerNet, prefix: str = "") -> None:
    state = {prefix + key: value for key, value in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.parameters()).state_dict()
    torch.save({"desc": state, "optimizer": optimizer, "lr_scheduler": {"last_epoch": 50}}, path)


@pytest.mark.parametrize(("mode", "num_types", "prefix"), [("fast", 6, ""), ("original", None, "module.")])
def test_an_official_tar_says_its_mode_and_types_by_its_weights(
    mode: str, num_types: int | None, prefix: str, tmp_path: Path
) -> None:
    network = HoVerNet(mode, num_types)
    path = tmp_path / "net_epoch=50.tar"
    _save_official(path, network, prefix)
    loaded = load_checkpoint(path)
    assert isinstance(loaded, HoVerNet)
    assert (loaded.mode, loaded.num_types) == (mode, num_types)
    assert torch.equal(loaded.conv_bot.weight, network.conv_bot.weight)
    assert loaded.facts.mpp == 0.25


def test_an_official_file_that_misses_a_weight_is_refused(tmp_path: Path) -> None:
    network = HoVerNet("fast")
    state = network.state_dict()
    del state["d1.shortcut.weight"]
    path = tmp_path / "partial.tar"
    torch.save({"desc": state}, path)
    with pytest.raises(ValueError, match="d1.shortcut.weight"):
        load_checkpoint(path)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code that ran",)


def test_a_pickled_object_is_refused_and_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "payload.tar"
    torch.save({"desc": {"conv0./.weight": _Payload()}}, path)
    with pytest.raises(ValueError, match="pickled objects"):
        load_checkpoint(path)
    assert "code that ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps([1, 2])])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken.pt"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        load_checkpoint(tmp_path / "nowhere.pt")


def test_another_number_of_types_loads_all_but_the_type_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, path = HoVerNetLite(num_types=5, num_stages=3), tmp_path / "five.pt"
    save_checkpoint(source, path)
    target = HoVerNetLite(num_types=3, num_stages=3)
    with caplog.at_level(logging.WARNING):
        fresh = load_weights(target, path)
    assert fresh == ["heads.tp.3.weight", "heads.tp.3.bias"]
    assert "type head starts fresh" in caplog.text
    assert torch.equal(target.heads["np"][3].weight, source.heads["np"][3].weight)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fast.tar"
    _save_official(path, HoVerNet("fast"))
    with pytest.raises(ValueError, match="no weight of HoVerNetLite"):
        load_weights(HoVerNetLite(num_stages=3), path)


def test_half_precision_storage_loads_as_single(tmp_path: Path) -> None:
    network, path = HoVerNetLite(num_stages=3), tmp_path / "half.pt"
    save_checkpoint(network, path, dtype=torch.float16)
    loaded = load_checkpoint(path)
    weight, stored = network.heads["hv"][3].weight, loaded.heads["hv"][3].weight
    assert stored.dtype == torch.float32
    torch.testing.assert_close(stored, weight, atol=1e-4, rtol=1e-3)


def test_saving_leaves_no_temporary_file(tmp_path: Path) -> None:
    save_checkpoint(HoVerNetLite(num_stages=3), tmp_path / "network.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt"]
