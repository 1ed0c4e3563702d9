"""A model repository: its configuration is what a Triton server reads, and says what a client needs to know."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from config.export import TritonExportSettings
from models.hovernet.checkpoint import Network
from models.hovernet.lite import HoVerNetLite
from run_utils.inference.triton_repository import ServedModel, repository_files, write_config


def make_network(num_types: int | None = 3, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return HoVerNetLite(num_types=num_types, num_stages=2, decoder_channels=[8], margin=16).eval()


def read_config(folder: Path, network: Network, settings: TritonExportSettings, **facts: object):
    path = folder / repository_files(network, settings)[-1]
    path.parent.mkdir(exist_ok=True)
    write_config(network, facts, settings, path)
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_a_server_reads_batching_instances_and_shapes(tmp_path: Path) -> None:
    settings = TritonExportSettings(
        "mine", instances=2, largest_batch=8, preferred_batches=[4, 8], delay_ms=2.5, queue=7
    )
    config = read_config(tmp_path, make_network(), settings)
    assert (config.name, config.platform, config.max_batch_size) == ("mine", "onnxruntime_onnx", 8)
    batching = config.dynamic_batching
    assert list(batching.preferred_batch_size) == [4, 8]
    assert (batching.max_queue_delay_microseconds, batching.default_queue_policy.max_queue_size) == (2500, 7)
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_GPU)
    assert [(part.name, list(part.dims)) for part in [*config.input, *config.output]] == [
        ("tiles", [-1, -1, 3]),
        ("nuclei", [-1, -1]),
        ("hv", [2, -1, -1]),
        ("types", [3, -1, -1]),
    ]
    assert [model_config_pb2.DataType.Name(part.data_type) for part in config.output] == [
        "TYPE_UINT8",  # small maps, on a GPU
        "TYPE_FP16",
        "TYPE_UINT8",
    ]
    (version,) = config.version_policy.specific.versions
    assert repository_files(make_network(), settings) == ["config.pbtxt", f"{version}/model.onnx"]


def test_a_version_is_the_same_for_the_same_maps_alone() -> None:
    def version(seed: int = 0, num_types: int | None = 3, **settings) -> str:
        return ServedModel.of_export(make_network(num_types, seed), TritonExportSettings(**settings)).version

    own = version(maps="full")
    assert version(maps="full", instances=2, queue=7, largest_batch=8) == own
    others = [version(maps="small"), version(maps="full", seed=1), version(maps="full", num_types=2)]
    assert len({own, *others}) == 4


def test_windows_may_be_fixed_and_a_network_without_types_gives_none(tmp_path: Path) -> None:
    settings = TritonExportSettings(backend="python", device="cpu", window=64, fixed=True)
    network = make_network(num_types=None)
    config = read_config(tmp_path, network, settings)
    assert [(part.name, list(part.dims)) for part in [*config.input, *config.output]] == [
        ("tiles", [64, 64, 3]),
        ("nuclei", [48, 48]),
        ("hv", [2, 48, 48]),
    ]
    assert config.backend == "python"
    source = tmp_path / repository_files(network, settings)[1]
    assert source.read_text().startswith('"""Runs a network inside a Triton server')
    with pytest.raises(ValueError, match="the nearest that fit are"):
        read_config(tmp_path, make_network(), dataclasses.replace(settings, window=63))


def test_facts_of_any_text_come_back_as_they_were(tmp_path: Path) -> None:
    notes = {"licence": 'a "b" \\ ép\n<i>'}
    config = read_config(tmp_path, make_network(), TritonExportSettings(maps="small"), notes=notes)
    facts = json.loads(config.parameters["hovernet"].string_value)
    assert facts["notes"] == notes
    served = ServedModel.of_config(json_format.MessageToDict(config, preserving_proto_field_name=True))
    assert served.version == str(config.version_policy.specific.versions[0])
    assert (served.window, served.is_fixed, served.is_small, served.num_types) == (1024, False, True, 3)
    assert served.differs_from(make_network()) == ""


def test_another_network_is_told_by_its_weights_types_and_sizes(tmp_path: Path) -> None:
    config = read_config(tmp_path, make_network(), TritonExportSettings())
    served = ServedModel.of_config(json_format.MessageToDict(config, preserving_proto_field_name=True))
    assert served.differs_from(make_network(seed=1)).startswith("weights ")
    other = HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=32)
    assert "margin 16 instead of 32" in served.differs_from(other)
    assert "types 3 instead of None" in served.differs_from(make_network(num_types=None))
    with pytest.raises(ValueError, match=r"'other' does not say which network it is.*to=triton"):
        ServedModel.of_config({"name": "other", "parameters": {}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "a/b"}, "names a folder"),
        ({"backend": "tensorrt"}, "use one of: onnxruntime, python"),
        ({"preferred_batches": [9]}, r"must lie in 1\.\.4; set triton.largest_batch="),
        ({"queue": -1}, "0 or more"),
    ],
)
def test_settings_that_no_server_takes_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TritonExportSettings(**settings)
