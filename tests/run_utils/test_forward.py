"""Training's ways to call the network: compiled, or with activations computed twice, and always the same network."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from config.schema import TrainSettings
from models.hovernet.lite import HoVerNetLite
from models.hovernet.network import HoVerNet
from run_utils.training.forward import compile_forward, make_forward, recompute_forward

pytestmark = pytest.mark.usefixtures("one_thread")


def _short_fast() -> HoVerNet:
    """The published network with two units where it has three to six: a test need not wait for all of them."""
    network = HoVerNet("fast")
    for part in (network.d0, network.d1, network.d2, network.d3):
        part.units = part.units[:2]
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "fast": _short_fast,
    "lite": lambda: HoVerNetLite(num_types=3, decoder_channels=[8, 16]),
    "stochastic depth": lambda: HoVerNetLite("efficientnet_b0", decoder_channels=[8, 16]),
}


def _tiny() -> HoVerNetLite:
    return HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=0)


def _draw_images(side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=generator)


def _take_gradients(network: nn.Module, forward: Callable[..., object], images: Tensor) -> int:
    """Add the gradients of a loss that no output is without; return the bytes kept for them, weights included."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        maps = forward(images)
        generator = torch.Generator().manual_seed(2)
        parts = [part for part in maps if part is not None]
        loss = sum((part * torch.randn(part.shape, generator=generator)).mean() for part in parts)
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_computed_twice_give_the_same_gradients_and_statistics_from_less_memory(
    name: str,
) -> None:
    torch.manual_seed(0)
    plain = NETWORKS[name]()
    twin = copy.deepcopy(plain)
    images = _draw_images(96)
    start = copy.deepcopy(plain.state_dict())
    kept = _take_gradients(plain, plain, images)
    kept_by_twin = _take_gradients(twin, recompute_forward(twin), images)
    for key, parameter in plain.named_parameters():
        assert torch.equal(parameter.grad, twin.get_parameter(key).grad), key
    after = twin.state_dict()
    assert plain.state_dict().keys() == after.keys()
    for key, values in plain.state_dict().items():  # batch norms' statistics among them
        assert torch.equal(values, after[key]), key
    assert any(not torch.equal(start[key], after[key]) for key in start)
    assert kept_by_twin < 0.6 * kept
    assert not any("forward" in vars(module) for module in twin.modules())


def test_a_frozen_encoder_is_left_alone_by_computing_twice() -> None:
    network = _tiny()
    network.encoder.requires_grad_(False).eval()
    before = copy.deepcopy(network.encoder.state_dict())
    _take_gradients(network, recompute_forward(network), _draw_images(64))
    assert all(torch.equal(value, before[key]) for key, value in network.encoder.state_dict().items())
    assert all(parameter.grad is not None for parameter in network.decoder.parameters())


def test_a_compiled_forward_pass_trains_the_network_itself() -> None:
    torch.manual_seed(0)
    plain = _tiny()
    twin = copy.deepcopy(plain)
    keys = list(twin.state_dict())
    images = _draw_images(64)
    compiled = compile_forward(
        twin, backend="aot_eager"
    )  # all of inductor's way but the C++, which takes a minute
    _take_gradients(plain, plain, images)
    _take_gradients(twin, compiled, images)
    assert list(twin.state_dict()) == keys
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(twin.get_parameter(key).grad, parameter.grad)
    for key, values in plain.named_buffers():
        torch.testing.assert_close(twin.get_buffer(key), values)


def test_without_a_compiler_compiling_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"train.compile=true needs a C\+\+ compiler, .*train.compile=false"):
        make_forward(_tiny(), TrainSettings(compile=True))


def test_neither_setting_gives_the_network_itself() -> None:
    network = _tiny()
    assert make_forward(network, TrainSettings()) is network


def test_compiling_and_computing_twice_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        TrainSettings(compile=True, checkpoint_gradients=True)


@pytest.mark.gpu
def test_inductor_compiles_a_training_step_on_a_gpu() -> None:
    torch.manual_seed(0)
    network = _tiny().cuda()
    images = _draw_images(64).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        maps = compile_forward(network)(images)
    sum(part.float().square().mean() for part in maps).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
