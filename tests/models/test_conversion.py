"""Checkpoints of other projects: every key finds its place, and what is not equal is refused and measured."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.hovernet.checkpoint import load_checkpoint, load_weights, save_checkpoint
from models.hovernet.conversion import export_checkpoint, import_checkpoint
from models.hovernet.foreign_keys import from_monai, monai_name, tensorflow_name
from models.hovernet.layers import crop
from models.hovernet.lite import HoVerNetLite
from models.hovernet.network import HoVerNet
from models.hovernet.weight_files import digest_weights
from models.nuclei import NucleusType
from tests.models.foreign_files import fill, forward, tensorflow_arrays, tensorflow_table, write_npz

TYPES = tuple(NucleusType(name, (index, 0, 255)) for index, name in enumerate("abcde"))


@pytest.fixture(scope="module")
def network() -> HoVerNet:
    torch.manual_seed(0)
    network = HoVerNet("fast", 5)
    fill(network)
    network.facts.types = TYPES
    network.facts.mpp = 0.25
    network.facts.notes = {"licence": "MIT", "scores": {"PQ": 0.5}}
    return network.eval()


@pytest.fixture(scope="module")
def lite() -> HoVerNetLite:
    network = HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=0)
    fill(network)
    return network.eval()


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    mine, other = a.state_dict(), b.state_dict()
    assert mine.keys() == other.keys()
    for key, value in mine.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, other[key]), key


@pytest.mark.parametrize("mode", ["original", "fast"])
@pytest.mark.parametrize("num_types", [None, 5])
def test_the_rules_give_the_authors_table_and_hit_every_key_once(mode: str, num_types: int | None) -> None:
    with torch.device("meta"):
        keys = list(HoVerNet(mode, num_types).state_dict())
    branches = ("np", "hv") if num_types is None else ("np", "hv", "tp")
    expected = {ours: theirs for ours, theirs, _ in tensorflow_table(branches)}
    names = {key: tensorflow_name(key) for key in keys}
    assert {key: f"{name}:0" for key, name in names.items() if name is not None} == expected
    assert max(Counter(expected.values()).values()) == 1
    without = {key for key, name in names.items() if name is None}
    assert without == {"upsample2x.unpool_mat"} | {key for key in keys if key.endswith("num_batches_tracked")}
    if num_types is not None:
        assert len(expected) == 667  # rows of the table the authors published


@pytest.mark.parametrize(("mode", "num_types"), [("fast", 5), ("original", None)])
def test_tensorflow_weights_give_the_network_they_were_written_from(
    mode: str, num_types: int | None, tmp_path: Path
) -> None:
    source = HoVerNet(mode, num_types)
    fill(source)
    arrays = tensorflow_arrays(source)
    path = write_npz(tmp_path / "tf.npz", {**arrays, "linear/W:0": np.ones((2048, 9), np.float32)})
    imported = import_checkpoint(path)
    assert isinstance(imported.network, HoVerNet)
    assert (imported.network.mode, imported.network.num_types) == (mode, num_types)
    assert_same(imported.network, source)
    assert imported.left == ["linear/W"]
    assert len(imported.state) == len(arrays)
    assert "upsample2x.unpool_mat" in imported.added
    assert torch.equal(imported.network.upsample2x.unpool_mat, torch.ones(2, 2))
    assert_same(load_checkpoint(path), source)


def test_an_encoder_in_tensorflow_starts_training_by_way_of_the_official_format(
    network: HoVerNet, tmp_path: Path
) -> None:
    arrays = {name: a for name, a in tensorflow_arrays(network).items() if name.startswith(("conv0/", "gr"))}
    arrays["linear/W:0"] = np.zeros((2048, 1000), np.float32)
    imported = import_checkpoint(write_npz(tmp_path / "ImageNet.npz", arrays))
    assert imported.network is None
    with pytest.raises(ValueError, match=r"write a \.tar"):
        export_checkpoint(imported, tmp_path / "encoder.pt", {})
    export_checkpoint(imported, tmp_path / "encoder.tar", {})
    assert load_weights(HoVerNet("fast"), tmp_path / "ImageNet.npz")  # TensorFlow's file itself starts it too
    target = HoVerNet("fast")
    fresh = load_weights(target, tmp_path / "encoder.tar")
    assert torch.equal(target.d3.shortcut.weight, network.d3.shortcut.weight)
    assert all(
        key.startswith(("decoder.", "conv_bot", "upsample2x")) or "num_batches" in key for key in fresh
    )


@pytest.mark.parametrize("ending", [".tar", ".safetensors", ".pt"])
def test_there_and_back_gives_the_same_outputs_and_digest(
    network: HoVerNet, ending: str, tmp_path: Path
) -> None:
    first, second, third = tmp_path / "a.pt", tmp_path / f"b{ending}", tmp_path / "c.pt"
    digests = {save_checkpoint(network, first)}
    for source, target in ((first, second), (second, third)):
        digests.add(export_checkpoint(import_checkpoint(source), target, {}))
    assert len(digests) == 1
    back = load_checkpoint(third)
    assert isinstance(back, HoVerNet)
    assert back.facts.digest in digests
    assert all(torch.equal(a, b) for a, b in zip(forward(network), forward(back), strict=True))
    if ending != ".tar":
        assert (back.facts.types, back.facts.mpp, back.facts.notes) == (TYPES, 0.25, network.facts.notes)


def test_the_official_file_holds_the_state_dict_under_desc(network: HoVerNet, tmp_path: Path) -> None:
    save_checkpoint(network, tmp_path / "a.pt")
    export_checkpoint(import_checkpoint(tmp_path / "a.pt"), tmp_path / "a.tar", {})
    content = torch.load(tmp_path / "a.tar", weights_only=True)
    assert list(content) == ["desc"]
    HoVerNet("fast", 5).load_state_dict(content["desc"], strict=True)


def test_half_precision_stays_half_and_lite_goes_to_safetensors_alone(
    lite: HoVerNetLite, tmp_path: Path
) -> None:
    digest = save_checkpoint(lite, tmp_path / "a.pt", dtype=torch.float16, types=TYPES[:3], mpp=0.5)
    imported = import_checkpoint(tmp_path / "a.pt")
    assert export_checkpoint(imported, tmp_path / "a.safetensors", {}) == digest
    assert load_file(tmp_path / "a.safetensors")["heads.np.3.weight"].dtype == torch.float16
    back = load_checkpoint(tmp_path / "a.safetensors")
    assert back.facts.types == TYPES[:3]
    assert_same(back, load_checkpoint(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match="the official format holds HoVerNet alone"):
        export_checkpoint(imported, tmp_path / "a.tar", {})


@pytest.mark.parametrize("wrapper", [None, "state_dict", "desc"])
def test_tiatoolbox_files_are_official_ones_wrapped_or_not(
    network: HoVerNet, wrapper: str | None, tmp_path: Path
) -> None:
    state = network.state_dict()
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 5}, tmp_path / "hovernet.pth")
    assert_same(import_checkpoint(tmp_path / "hovernet.pth").network, network)


def test_the_digest_depends_on_values_formats_and_names_alone() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
    digest = digest_weights(state)
    assert digest == digest_weights({"b": state["b"], "a": state["a"].t().contiguous().t()})
    changed = {"values": state["a"] + 1, "format": state["a"].half(), "shape": state["a"].reshape(3, 2)}
    others = [digest_weights({**state, "a": value}) for value in changed.values()]
    others += [digest_weights({"a": state["a"], "c": state["b"]})]
    assert len({digest, *others}) == 5


def test_a_changed_weight_in_ours_is_found_by_the_digest(lite: HoVerNetLite, tmp_path: Path) -> None:
    save_checkpoint(lite, tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    content["state"]["heads.np.3.bias"][0] += 1
    torch.save(content, tmp_path / "changed.pt")
    save_checkpoint(lite, tmp_path / "a.safetensors")
    raw = bytearray((tmp_path / "a.safetensors").read_bytes())
    raw[-5] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(raw)
    for name in ("changed.pt", "changed.safetensors"):
        with pytest.raises(ValueError, match="their digest differs"):
            load_checkpoint(tmp_path / name)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code that ran",)


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".npz"])
def test_a_truncated_file_ends_in_one_line(lite: HoVerNetLite, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".npz":
        write_npz(path, {"conv0/W:0": np.zeros((7, 7, 3, 64), np.float32)})
    else:
        save_checkpoint(lite, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="download it again") as error:
        import_checkpoint(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".tar", ".npz"])
def test_a_pickled_payload_is_refused_and_does_not_run(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".npz":
        np.savez(path, **{"conv0/W:0": np.array([_Payload()], dtype=object)})
    else:
        torch.save({"desc": {"d0.shortcut.weight": _Payload()}}, path)
    with pytest.raises(ValueError, match="pickled objects"):
        import_checkpoint(path)
    assert "code that ran" not in capsys.readouterr().out


def test_weights_of_another_network_are_refused_by_name(network: HoVerNet, tmp_path: Path) -> None:
    arrays = tensorflow_arrays(network)
    del arrays["hv/u2/convf/W:0"]
    with pytest.raises(ValueError, match=r"misses 1: decoder\.hv\.u2\.convf\.weight"):
        import_checkpoint(write_npz(tmp_path / "partial.npz", arrays))
    with pytest.raises(ValueError, match="holds 0 weights of HoVer-Net"):
        import_checkpoint(write_npz(tmp_path / "vgg.npz", {"conv1_1/W": np.zeros((3, 3, 3, 64))}))
    state = dict(network.state_dict())
    torch.save({**state, "decoder.ls.u0.conv.bias": torch.zeros(3)}, tmp_path / "plus.pth")
    with pytest.raises(ValueError, match=r"decoder\.ls") as error:
        import_checkpoint(tmp_path / "plus.pth")
    assert "\n" not in str(error.value)
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="not written by torch.save"):
        import_checkpoint(tmp_path / "page.pt")
    save_file({"layer1.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(ValueError, match="neither one of our checkpoints"):
        import_checkpoint(tmp_path / "resnet.safetensors")


def test_our_header_in_a_safetensors_file_is_json_beside_the_weights(
    lite: HoVerNetLite, tmp_path: Path
) -> None:
    from safetensors import safe_open

    save_checkpoint(lite, tmp_path / "a.safetensors", types=TYPES[:3], mpp=0.5, licence="MIT")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["hovernet"])
    assert header["network"] == "HoVerNetLite"
    assert (header["mpp"], header["notes"]["licence"]) == (0.5, "MIT")
    with pytest.raises(ValueError, match="more than JSON can say"):
        save_checkpoint(lite, tmp_path / "b.safetensors", scores=torch.ones(2))


@pytest.fixture(scope="module")
def monai() -> torch.nn.Module:
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    network = nets.HoVerNet(mode="fast", out_classes=5)
    fill(network)
    return network.eval()


def test_monai_keys_are_hit_exactly_once(monai: torch.nn.Module) -> None:
    with torch.device("meta"):
        own = [key for key in HoVerNet("fast", 5).state_dict() if "unpool" not in key]
    names = [monai_name(key) for key in own]
    assert Counter(names) == Counter(list(monai.state_dict()))


def test_monai_weights_are_refused_unless_inexact_is_allowed(monai: torch.nn.Module, tmp_path: Path) -> None:
    torch.save({"model": monai.state_dict()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="allow_inexact=true"):
        import_checkpoint(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"convert_checkpoint\.py"):
        load_checkpoint(tmp_path / "model.pt")
    imported = import_checkpoint(tmp_path / "model.pt", allow_inexact=True)
    assert imported.network is not None
    assert (imported.left, imported.added) == ([], ["upsample2x.unpool_mat"])
    assert imported.network.facts.mpp is None


@pytest.mark.slow
def test_monai_is_equal_up_to_the_first_stride_and_in_its_decoder_blocks_and_apart_at_the_end(
    monai: torch.nn.Module,
) -> None:
    """Of random weights; the distance is that of the whole maps, as a share of their standard deviation."""
    ours = HoVerNet("fast", 5).eval()
    ours.load_state_dict(from_monai(monai.state_dict()).state | {"upsample2x.unpool_mat": torch.ones(2, 2)})
    images = torch.randint(0, 256, (1, 3, 256, 256), generator=torch.Generator().manual_seed(2))
    features = torch.randn(1, 1024, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        stem = ours.d0(ours.conv0(images / 255))
        torch.testing.assert_close(stem, monai.res_blocks[0](monai.conv0(images / 255)))
        u3 = ours.decoder["np"].u3(features)
        torch.testing.assert_close(u3, monai.nucleus_prediction.decoder_blocks[0](features))
        u0 = ours.decoder["hv"].u0(ours.decoder["hv"].u1(features[:, :256]))
        torch.testing.assert_close(u0, monai.horizontal_vertical.output_features(features[:, :256]))
        d1, other = ours.d1(stem), monai.res_blocks[1](stem)
        shift = _distance(crop(d1, 8), crop(other, 8))
        mine, theirs = ours(images), monai(images / 255)
    apart = {
        "d1": shift,
        "nuclei": _distance(mine.nuclei, theirs["nucleus_prediction"]),
        "hv": _distance(mine.hv, theirs["horizontal_vertical"]),
        "types": _distance(mine.types, theirs["type_prediction"]),
    }
    assert all(distance > 0.1 for distance in apart.values())


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the root mean square difference as a share of the standard deviation."""
    assert a.shape == b.shape
    return float((a - b).square().mean().sqrt() / a.std())
