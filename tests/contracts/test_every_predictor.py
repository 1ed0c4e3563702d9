"""Every predictor gives the network's own maps, whatever runs it, for any batch and any window that fits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks.triton_server import TritonServer
from config.export import ExportSettings, TritonExportSettings
from config.triton import TritonSettings
from models.hovernet.checkpoint import Network, save_checkpoint
from models.hovernet.lite import HoVerNetLite
from run_utils.build_inference import PREDICTORS, Engine
from run_utils.export import export
from run_utils.inference.predictors import Predictor, ProbabilityMaps

TOLERANCE = 1e-4
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ON_GPU_ONLY = {"cudagraphs"}
ON_CPU_ONLY = {"openvino", "onnxruntime"}
BEHIND_A_SERVER = {"triton"}
ROWS = [pytest.param(row, marks=pytest.mark.triton) if row in BEHIND_A_SERVER else row for row in PREDICTORS]
NUM_TYPES = 3


def _network() -> Network:
    torch.manual_seed(3)
    network = HoVerNetLite(num_types=NUM_TYPES, num_stages=2, decoder_channels=[8], margin=16)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def _tiles(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


def _expected(network: Network, tiles: np.ndarray) -> ProbabilityMaps:
    """By the definition: the network as it was trained, in float64."""
    with torch.inference_mode():
        maps = network.double().cpu()(torch.from_numpy(tiles).permute(0, 3, 1, 2))
    network.float()
    assert maps.types is not None
    return ProbabilityMaps(
        maps.nuclei.softmax(1)[:, 1].numpy(), maps.hv.numpy(), maps.types.softmax(1).numpy()
    )


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonSettings]:
    """A Triton server that runs the network."""
    folder = tmp_path_factory.mktemp("server")
    save_checkpoint(_network(), folder / "a.pt")
    triton = TritonExportSettings(backend="python", device="cpu", largest_batch=2, maps="full")
    assert not export(ExportSettings(str(folder / "a.pt"), str(folder / "models"), "triton", triton))
    with TritonServer(folder / "models") as running:
        yield TritonSettings(running.address("http"))


@pytest.fixture(scope="module", params=ROWS)
def predictor(request: pytest.FixtureRequest, device: torch.device) -> Iterator[Predictor]:
    name = request.param
    if name in (ON_GPU_ONLY if device.type == "cpu" else ON_CPU_ONLY | BEHIND_A_SERVER):
        pytest.skip(f"{name} does not run on {device.type}")
    server = request.getfixturevalue("server") if name in BEHIND_A_SERVER else None
    built = PREDICTORS[name](_network(), Engine(device, torch.float32, server=server))
    yield built
    if hasattr(built, "close"):
        built.close()


def test_maps_are_those_of_the_network(predictor: Predictor) -> None:
    network = _network()
    for shape in ((1, 64, 64), (2, 64, 96), (1, 64, 64)):
        tiles = _tiles(*shape)
        before = tiles.copy()
        maps, expected = predictor.predict(tiles), _expected(network, tiles)
        for part, wanted in zip(maps, expected, strict=True):
            assert part.dtype == np.float32
            np.testing.assert_allclose(part, wanted, atol=TOLERANCE)
        np.testing.assert_array_equal(tiles, before)


def test_maps_outlive_the_next_prediction(predictor: Predictor) -> None:
    first = predictor.predict(_tiles(1, 64, 64))
    kept = [np.array(part) for part in first]
    predictor.predict(_tiles(2, 64, 64)[1:])
    for part, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(part, before)


def test_it_says_what_its_network_is(predictor: Predictor, device: torch.device) -> None:
    network = _network()
    assert predictor.geometry == network.geometry
    assert predictor.num_types == NUM_TYPES
    assert predictor.device.type == device.type


@pytest.mark.parametrize("name", sorted(ON_GPU_ONLY))
def test_what_needs_a_gpu_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="needs a GPU.*use predictor=torch"):
        PREDICTORS[name](_network(), Engine(torch.device("cpu"), torch.float32))


@pytest.mark.parametrize("name", sorted(ON_CPU_ONLY))
def test_what_runs_on_the_cpu_alone_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="set device=cpu"):
        PREDICTORS[name](_network(), Engine(torch.device("cuda"), torch.float32))
    with pytest.raises(ValueError, match="leave maps= out"):
        PREDICTORS[name](_network(), Engine(torch.device("cpu"), torch.float32, is_small=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["torch", "cudagraphs"])
def test_maps_that_stay_on_a_gpu_are_the_same(name: str) -> None:
    device = torch.device("cuda")
    staying = PREDICTORS[name](_network(), Engine(device, torch.float32, stays=True))
    tiles = _tiles(2, 64, 64)
    first, second = staying.predict(tiles[:1]), staying.predict(tiles[1:])
    for maps, tile in ((first, tiles[:1]), (second, tiles[1:])):
        for part, wanted in zip(maps, _expected(_network(), tile), strict=True):
            assert part.is_cuda
            np.testing.assert_allclose(part.cpu().numpy(), wanted, atol=TOLERANCE)
