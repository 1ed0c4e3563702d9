"""Engines give torch's maps from a process without torch, which may die, and which ends when ours does."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.hovernet.lite import HoVerNetLite
from run_utils.inference.engines import predictor as predictor_module
from run_utils.inference.engines import process as process_module
from run_utils.inference.engines.predictor import MOST_KEPT, EnginePredictor, export_once
from run_utils.inference.engines.process import EXTRAS, EngineProcess, environment
from run_utils.inference.predictors import ProbabilityMaps
from run_utils.inference.torch_predictor import TorchPredictor
from tests.waiting import is_running, wait_until

ENGINES = tuple(EXTRAS)


def make_network(num_types: int | None = 3) -> HoVerNetLite:
    """Return a small network whose maps are far from constant."""
    torch.manual_seed(0)
    network = HoVerNetLite(num_types=num_types, num_stages=2, decoder_channels=[8], margin=16)
    for head in network.heads.children():
        nn.init.normal_(head[-1].weight, std=0.15)
    return network.eval()


def make_tiles(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def predict_with_torch(network: HoVerNetLite, tiles: np.ndarray) -> ProbabilityMaps:
    return TorchPredictor(network, torch.device("cpu"), torch.float32).predict(tiles)


def assert_maps_close(found: ProbabilityMaps, expected: ProbabilityMaps, tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def network() -> HoVerNetLite:
    return make_network()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module", params=ENGINES)
def predictor(
    request: pytest.FixtureRequest, network: HoVerNetLite, cache_dir: Path
) -> Iterator[EnginePredictor]:
    predictor = EnginePredictor(network, request.param, torch.float32, cache_dir)
    yield predictor
    predictor.close()


def test_maps_are_those_of_torch_at_any_size(predictor: EnginePredictor, network: HoVerNetLite) -> None:
    for shape in ((2, 64, 96), (1, 128, 72)):
        tiles = make_tiles(*shape)
        expected = predict_with_torch(network, tiles)
        assert np.ptp(expected.nuclei) > 0.3 and np.ptp(expected.hv) > 0.3
        assert_maps_close(predictor.predict(tiles), expected, 1e-4)
    assert predictor.geometry == network.geometry and predictor.num_types == 3
    with pytest.raises(ValueError, match="the nearest that fit are"):
        predictor.predict(make_tiles(1, 65, 96))


def test_the_process_of_an_engine_holds_no_torch(predictor: EnginePredictor) -> None:
    mapped = Path(f"/proc/{predictor.pid}/maps").read_text()
    assert predictor.engine in mapped
    assert "torch" not in mapped


def test_a_process_that_is_killed_at_work_gives_an_error_and_the_next_works(
    predictor: EnginePredictor, network: HoVerNetLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = make_tiles(1, 64, 64)
    is_asking = threading.Event()
    real = process_module._exchange

    def exchange(*arguments: Any) -> str:
        is_asking.set()
        return real(*arguments)

    monkeypatch.setattr(process_module, "_exchange", exchange)
    os.kill(predictor.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(predictor.predict, tiles)
        assert is_asking.wait(10)  # killed sooner, it would be found gone and started again
        os.kill(predictor.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=f"{predictor.engine} ended at work: it was killed"):
            future.result(10)
    assert_maps_close(predictor.predict(tiles), predict_with_torch(network, tiles), 1e-4)


def test_maps_of_an_interrupted_call_are_not_taken_for_those_of_the_next(
    network: HoVerNetLite, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = EnginePredictor(network, "onnxruntime", torch.float32, cache_dir)
    first, second = make_tiles(2, 64, 96, seed=1)[:, None]
    interrupt = threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    real = process_module._exchange

    def exchange(*arguments: Any) -> str:
        interrupt.start()  # once it is asked: an interruption before leaves nothing to mix up
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(process_module, "_exchange", exchange)
        os.kill(predictor.pid, signal.SIGSTOP)
        predictor.predict(first)
    assert_maps_close(predictor.predict(second), predict_with_torch(network, second), 1e-4)
    predictor.close()


def test_a_window_that_does_not_fit_into_memory_names_the_setting(network, cache_dir) -> None:
    predictor = EnginePredictor(network, "onnxruntime", torch.float32, cache_dir)
    used = int(Path(f"/proc/{predictor.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(predictor.pid, resource.RLIMIT_AS, (used + 2**25, used + 2**25))
    with pytest.raises(MemoryError, match="set window="):
        predictor.predict(make_tiles(1, 1024, 1024))
    predictor.close()


def test_two_predictors_work_at_once_without_mixing_their_maps(network, cache_dir) -> None:
    networks = [network, make_network(num_types=None)]
    tiles = [make_tiles(1, 64, 96, seed=1), make_tiles(2, 96, 64, seed=2)]
    expected = [predict_with_torch(own, given) for own, given in zip(networks, tiles, strict=True)]
    predictors = [EnginePredictor(own, "onnxruntime", torch.float32, cache_dir) for own in networks]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(predictors[n % 2].predict, tiles[n % 2]) for n in range(6)]
    for n, future in enumerate(futures):
        assert_maps_close(future.result(), expected[n % 2], 1e-4)
    for predictor in predictors:
        predictor.close()


def test_a_lower_precision_gives_nearly_the_same_maps(network, cache_dir) -> None:
    tiles = make_tiles(1, 96, 96)
    predictor = EnginePredictor(network, "openvino", torch.bfloat16, cache_dir)
    assert_maps_close(predictor.predict(tiles), predict_with_torch(network, tiles), 0.1)
    predictor.close()


def test_a_network_is_exported_once_and_other_weights_again(network, tmp_path, monkeypatch) -> None:
    written: list[Path] = []
    real = predictor_module.graph.write_onnx

    def write(traced: torch.jit.ScriptModule, own: HoVerNetLite, path: Path) -> None:
        written.append(path)
        real(traced, own, path)

    monkeypatch.setattr(predictor_module.graph, "write_onnx", write)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: export_once(network, tmp_path), range(2))
    assert first == second and len(written) == 1
    other = make_network()
    other.heads["np"][-1].bias.data += 1
    assert export_once(other, tmp_path) != first
    assert len(list(tmp_path.glob("[!.]*"))) == 2


CHILD = """
import sys
from pathlib import Path
from run_utils.inference.engines.process import EngineProcess
process = EngineProcess(sys.argv[1], Path(sys.argv[2]), num_threads=1)
print(process.pid, "torch" in sys.modules, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("engine", "ending"), [("openvino", signal.SIGKILL), ("onnxruntime", None)])
def test_the_process_of_an_engine_ends_when_ours_does(
    engine: str, ending: signal.Signals | None, network: HoVerNetLite, cache_dir: Path, tmp_path: Path
) -> None:
    home = {**environment(), "HOME": str(tmp_path)}
    ours = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD, engine, str(export_once(network, cache_dir))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=home,
    )  # fmt: skip
    pid, has_torch = ours.stdout.readline().split()
    assert has_torch == "False" and is_running(int(pid))
    if ending is not None:
        ours.send_signal(ending)
    assert ours.communicate()[1] == ""  # neither errors nor warnings of leaks
    wait_until(lambda: not is_running(int(pid)))
    assert not list(tmp_path.iterdir())  # where the engines' telemetry would keep its state


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_text("no model")
    with pytest.raises(RuntimeError, match="onnxruntime failed: InvalidProtobuf"):
        EngineProcess("onnxruntime", tmp_path / "broken.onnx", num_threads=1)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_is_not_installed_names_the_command(engine, network, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(process_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"predictor={engine} needs .* --extra {EXTRAS[engine]} "):
        EnginePredictor(network, engine, torch.float32, tmp_path)


def test_an_unknown_engine_lists_the_known_ones(network: HoVerNetLite, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use one of: openvino, onnxruntime"):
        EnginePredictor(network, "tensorrt", torch.float32, tmp_path)


def test_the_networks_used_last_are_kept(tmp_path: Path) -> None:
    network = make_network()
    kept = export_once(network, tmp_path)
    for number in range(MOST_KEPT):
        other = tmp_path / f"{number}.onnx"
        other.touch()
        os.utime(other, (number, number))
    assert export_once(network, tmp_path) == kept
    assert {path.name for path in tmp_path.glob("*.onnx")} == {
        kept.name,
        *(f"{number}.onnx" for number in range(1, MOST_KEPT)),
    }
