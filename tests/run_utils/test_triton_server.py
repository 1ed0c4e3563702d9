"""A real Triton server: the direct path's nuclei, batches put together, and slides that outlive the server's death."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import ipaddress
import json
import signal
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.triton_server import HOST, TritonServer
from config.export import ExportSettings, TritonExportSettings
from config.schema import InferSettings
from config.triton import TritonSettings
from models.hovernet.checkpoint import load_checkpoint, save_checkpoint
from models.hovernet.lite import HoVerNetLite
from run_utils import operator
from run_utils.build_inference import build_plan, build_predictor
from run_utils.export import export
from run_utils.inference.batch_run import infer_all
from run_utils.inference.maps import predict_region
from run_utils.inference.triton_client import TritonClient
from run_utils.inference.triton_predictor import TritonPredictor
from tests.conftest import ROOT
from tests.drawing import draw_pairs, paint_tissue

pytestmark = pytest.mark.triton

CHECKPOINT = ROOT / "samples" / "hovernet_lite_consep.pt"
WINDOW = 256
SIDE = 640  # px of the image: 25 windows
TIMEOUT_S = 30.0
SERVED = TritonExportSettings(backend="python", device="cpu", window=WINDOW)
MODELS = {
    "tiny": dataclasses.replace(SERVED, model="tiny", largest_batch=4, delay_ms=200, maps="full"),
    "narrow": dataclasses.replace(SERVED, model="narrow", queue=1, fixed=True, window=64, maps="small"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton")
    torch.manual_seed(0)
    network = HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=16)
    save_checkpoint(network, folder / "tiny.pt", mpp=0.25)
    tifffile.imwrite(folder / "image.tif", paint_tissue(draw_pairs((SIDE, SIDE))), photometric="rgb")
    with contextlib.redirect_stdout(io.StringIO()):
        assert not export(ExportSettings(str(CHECKPOINT), str(folder / "models"), "triton", SERVED))
        for settings in MODELS.values():
            assert not export(
                ExportSettings(str(folder / "tiny.pt"), str(folder / "models"), "triton", settings)
            )
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[TritonServer]:
    with TritonServer(folder / "models") as server:
        yield server


@pytest.fixture(scope="module")
def direct(folder: Path) -> dict[str, bytes]:
    return infer(folder, "direct", predictor="onnxruntime")


def infer(folder: Path, output: str, **settings: object) -> dict[str, bytes]:
    """Return the outputs of the image."""
    given = InferSettings(
        str(folder / "image.tif"), str(folder / output), str(CHECKPOINT), outputs=["json", "geojson"]
    )
    given = dataclasses.replace(given, window=WINDOW, tissue=False, mpp=0.25, **settings)
    assert infer_all(given) == 0
    paths = [path for path in sorted((folder / output).rglob("image.*")) if path.is_file()]
    return {path.name: path.read_bytes() for path in paths}


def on(server: TritonServer, protocol: str = "http", **settings: object) -> dict[str, object]:
    triton = TritonSettings(
        server.address(protocol), protocol, timeout_s=TIMEOUT_S, patience_s=60, **settings
    )
    return {"predictor": "triton", "triton": triton}


def tiny_predictor(folder: Path, server: TritonServer, model: str, protocol: str = "http", **settings):
    network = load_checkpoint(folder / "tiny.pt")
    return TritonPredictor(
        network,
        TritonSettings(server.address(protocol), protocol, model=model, timeout_s=TIMEOUT_S, **settings),
    )


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nuclei_are_those_of_the_direct_path(protocol, folder, server, direct) -> None:
    assert infer(folder, protocol, **on(server, protocol)) == direct
    (status,) = json.loads((folder / protocol / "run.json").read_text())["slides"].values()
    assert status["num_nuclei"] > 100
    made_with = status["made_with"]
    assert (made_with["predictor"], made_with["precision"], made_with["window"]) == (
        "triton",
        "float32",
        WINDOW,
    )


def kill_with_its_backends(server: TritonServer) -> None:
    server.kill()
    time.sleep(1)
    server.start()


def stop_as_an_administrator_does(server: TritonServer) -> None:
    server.kill(signal.SIGTERM)
    server.start()


@pytest.mark.parametrize(
    ("disturb", "protocol"),
    [
        (kill_with_its_backends, "http"),
        (kill_with_its_backends, "grpc"),
        (stop_as_an_administrator_does, "http"),
    ],
)
def test_a_server_that_dies_in_the_middle_of_a_slide_costs_nothing(
    disturb: Callable[[TritonServer], None], protocol, folder, server, direct, caplog
) -> None:
    begun = server.count("hovernet")
    found: dict[str, bytes] = {}
    output = f"{disturb.__name__}_{protocol}"
    run = threading.Thread(target=lambda: found.update(infer(folder, output, **on(server, protocol))))
    run.start()
    while server.count("hovernet") < begun + 8:
        assert run.is_alive()
        time.sleep(0.01)
    assert server.count("hovernet") < begun + 20  # it is the middle
    disturb(server)
    run.join()
    assert found == direct
    if disturb is kill_with_its_backends:  # the other ends when nothing is under way
        assert any("answers again" in record.getMessage() for record in caplog.records)


def test_requests_of_several_threads_are_put_together(folder, server) -> None:
    predictor = tiny_predictor(folder, server, "tiny")
    generator = np.random.default_rng(0)
    tiles = [generator.integers(0, 256, (1, 64, 64, 3), np.uint8) for _ in range(8)]
    alone = [predictor.predict(tile) for tile in tiles]
    begun = server.count("tiny", "execution_count")
    together: dict[int, object] = {}
    threads = [
        threading.Thread(target=lambda i=i: together.update({i: predictor.predict(tiles[i])}))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.count("tiny", "execution_count") - begun < 8
    for index, maps in enumerate(alone):
        for part, other in zip(maps, together[index], strict=True):
            np.testing.assert_allclose(part, other, atol=1e-6)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_small_maps_are_the_full_ones_rounded(protocol, folder, server) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), np.uint8)
    full, small = (
        tiny_predictor(folder, server, model, protocol).predict(tiles) for model in ("tiny", "narrow")
    )
    assert [part.dtype.name for part in small] == ["uint8", "float16", "uint8"]
    np.testing.assert_allclose(small.nuclei / 255, full.nuclei, atol=0.5 / 255 + 1e-5)
    np.testing.assert_allclose(small.hv, full.hv, atol=2e-3)
    np.testing.assert_allclose(small.types / 255, full.types, atol=0.5 / 255 + 1e-5)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_whose_queue_is_full_is_waited_for(protocol, folder, server, caplog) -> None:
    predictor = tiny_predictor(folder, server, "narrow", protocol, requests=8)
    tiles = np.zeros((1, 64, 64, 3), np.uint8)
    shapes = []
    threads = [
        threading.Thread(
            target=lambda: [shapes.append(predictor.predict(tiles).nuclei.shape) for _ in range(20)]
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [(1, 48, 48)] * 160
    assert any("queue" in record.getMessage() for record in caplog.records)


def test_other_weights_are_refused(folder, server) -> None:
    with pytest.raises(ValueError, match="is not checkpoint=: it has weights .* instead of .*to=triton"):
        TritonPredictor(load_checkpoint(CHECKPOINT), TritonSettings(server.address("http"), model="tiny"))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_what_cannot_be_right_is_not_asked_again(protocol, folder, server) -> None:
    client = TritonClient(TritonSettings(server.address(protocol), protocol, model="tiny", patience_s=60))
    start = time.monotonic()
    with pytest.raises((ValueError, RuntimeError), match="Triton server"):
        client.infer(np.zeros((5, 64, 64, 3), np.uint8), ["nuclei"])  # a larger batch than it takes
    with pytest.raises((ValueError, RuntimeError), match="Triton server"):
        client.infer(np.zeros((1, 64, 64, 3), np.uint8), ["other"])
    other = TritonClient(TritonSettings(server.address(protocol), protocol, model="nobody", patience_s=60))
    with pytest.raises(ValueError, match="'nobody'.*see triton.model="):
        other.config()
    assert time.monotonic() - start < 5


def test_a_message_too_large_for_grpc_is_not_sent_again(folder, server, monkeypatch) -> None:
    predictor = tiny_predictor(folder, server, "tiny", "grpc", patience_s=60)
    for side in (32, 64):  # 3 and 12 KB up; 6 and 48 KB down
        monkeypatch.setattr("run_utils.inference.triton_client.LARGEST_MESSAGE", 5000)
        small = TritonClient(predictor._client.settings)
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"too large for gRPC \(.*larger than max.*triton.protocol=http"):
            small.infer(np.zeros((1, side, side, 3), np.uint8), ["nuclei", "hv", "types"])
        assert time.monotonic() - start < 5


def test_a_server_that_comes_back_with_another_network_is_refused_and_ctrl_c_does_not_wait(
    folder, tmp_path
) -> None:
    def export_tiny(seed: int) -> None:
        torch.manual_seed(seed)
        network = HoVerNetLite(num_types=3, num_stages=2, decoder_channels=[8], margin=16)
        save_checkpoint(network, tmp_path / f"{seed}.pt", mpp=0.25)
        given = str(tmp_path / f"{seed}.pt"), str(tmp_path / "models"), "triton", MODELS["tiny"]
        with contextlib.redirect_stdout(io.StringIO()):
            assert not export(ExportSettings(*given, overwrite=True))

    export_tiny(1)
    tiles = np.zeros((1, 64, 64, 3), np.uint8)
    with TritonServer(tmp_path / "models") as server:
        settings = TritonSettings(server.address("grpc"), "grpc", "tiny", patience_s=60)
        predictor = TritonPredictor(load_checkpoint(tmp_path / "1.pt"), settings)
        predictor.predict(tiles)
        server.kill()
        export_tiny(2)
        server.start()
        with pytest.raises(ValueError, match="another network"):
            predictor.predict(tiles)
        server.kill()
        plan = build_plan(InferSettings("a.tif", "out", "x.pt", window=64, tissue=False), predictor)
        main = threading.main_thread().ident
        timer = threading.Timer(1, lambda: signal.pthread_kill(main, signal.SIGINT))
        start = time.monotonic()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            try:
                predict_region(lambda box: tiles[0], (64, 64), (0, 0, 64, 64), predictor, plan)
            finally:
                timer.cancel()
        assert 1 <= time.monotonic() - start < 5


def test_settings_that_the_server_decides_are_refused(folder, server) -> None:
    base = InferSettings("a.tif", "out", str(folder / "tiny.pt"), **on(server, model="narrow"), overlap=1)
    plan = build_plan(base, build_predictor(base))
    assert (plan.window, plan.is_exact, plan.predict_workers) == (64, True, 4)
    for changed, message in (
        ({"window": 128}, "takes windows of 64 px alone"),
        ({"batch_size": 2}, "the server puts batches together"),
        ({"precision": "bf16"}, "precision=bf16 is for the Triton server to decide"),
        ({"device": "cuda:0"}, "device=cuda:0 is for the Triton server to decide"),
    ):
        with pytest.raises(ValueError, match=message):
            build_predictor(dataclasses.replace(base, **changed))


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of this machine, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a server")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    plain = serialization.NoEncryption()
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return paths


@contextlib.contextmanager
def tls_before(port: int, certificate: Path, key: Path) -> Iterator[str]:
    """Give the address of what speaks TLS and hands on to a port, as a proxy before Triton's HTTP does."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port)) as plain:
                secure = context.wrap_socket(self.request, server_side=True)
                back = threading.Thread(target=hand_on, args=(plain, secure), daemon=True)
                back.start()
                hand_on(secure, plain)

    with socketserver.ThreadingTCPServer((HOST, 0), Handler) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"{HOST}:{proxy.server_address[1]}"
        proxy.shutdown()


def hand_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            sink.sendall(part)


@pytest.fixture(scope="module")
def secure(folder: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """Addresses of a server that is reached over TLS alone, by protocol, and its certificate."""
    certificate, key = make_certificate(folder)
    options = ["--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
    with (
        TritonServer(folder / "models", *options) as server,
        tls_before(server.http_port, certificate, key) as address,
    ):
        yield {"http": address, "grpc": server.address("grpc")}, certificate


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tls_is_spoken_with_a_certificate_that_is_trusted_and_no_other(
    protocol, folder, secure, monkeypatch
) -> None:
    addresses, certificate = secure
    settings = TritonSettings(addresses[protocol], protocol, "tiny", tls=True, patience_s=60)
    network = load_checkpoint(folder / "tiny.pt")
    start = time.monotonic()
    with pytest.raises(ValueError, match="not trusted here.*triton.certificates="):
        TritonPredictor(network, settings)
    assert time.monotonic() - start < 10
    trusting = TritonPredictor(network, dataclasses.replace(settings, certificates=str(certificate)))
    assert trusting.predict(np.zeros((1, 64, 64, 3), np.uint8)).nuclei.shape == (1, 48, 48)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # which becomes the system's
    TritonPredictor(network, settings)
    of_other_name = dataclasses.replace(settings, address=addresses[protocol].replace(HOST, "localhost"))
    with pytest.raises(ValueError, match="not for this host.*the host as the certificate does"):
        TritonPredictor(network, of_other_name)


def test_the_operator_of_clara_runs_its_network_on_the_server(folder, monkeypatch, tmp_path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        named = dataclasses.replace(SERVED, model="hovernet_lite_consep")
        assert not export(ExportSettings(str(CHECKPOINT), str(tmp_path / "models"), "triton", named))
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "config_render.json").write_text("{}")
    image = paint_tissue(draw_pairs((256, 256)))
    write = {"tile": (256, 256), "resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "input" / "slide.tif", image, photometric="rgb", **write)
    with TritonServer(tmp_path / "models") as server:
        monkeypatch.setenv("NVIDIA_CLARA_TRTISURI", server.address("http"))
        folders = [f"--{name}-path={tmp_path / name}" for name in ("input", "output")]
        assert operator.main(["segmentation", *folders]) == 0
        assert server.count("hovernet_lite_consep") > 0
    assert (tmp_path / "output" / "image.tif").is_file()
