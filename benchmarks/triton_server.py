"""A real Triton server on this machine, for tests and benchmarks: nvidia-pytriton's, in an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from run_utils.files import locking

ENVIRONMENT = Path(__file__).resolve().parents[1] / ".engines" / "triton"
PACKAGES = ("nvidia-pytriton==0.7.0", "numpy<2", "onnxruntime>=1.22")  # with numpy 2 its outputs are empty
READY = ".ready"
HOST = "127.0.0.1"
START_S = 60.0  # that a server may take until it answers
PAUSE_S = 0.05
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where a Python backend keeps its own, also after it was killed


class TritonServer:
    """A server of one model repository, which can be killed and started again at the same address.

    Args:
        repository: folder of models, as `export_model.py to=triton` writes it.
        options: further ones of `tritonserver`.
    """

    def __init__(self, repository: Path, *options: str) -> None:
        self.repository = repository
        self.options = options
        self.log_path = repository.parent / f"{repository.name}.log"
        self._shared = f"hovernet_{uuid.uuid4().hex[:12]}_"
        self._process: subprocess.Popen[bytes] | None = None
        self._root = build_environment()
        self.http_port, self.grpc_port = two_free_ports()

    def address(self, protocol: str) -> str:
        """Return `host:port` for http or grpc."""
        return f"{HOST}:{self.http_port if protocol == 'http' else self.grpc_port}"

    def start(self) -> TritonServer:
        """Start it, and wait until it answers."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), env=_variables(), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"no Triton server: {self.log_path.read_text(errors='replace')[-2000:]}")
            time.sleep(PAUSE_S)
        return self

    def is_ready(self) -> bool:
        """Return whether the server answers and its models are loaded."""
        try:
            with urllib.request.urlopen(f"http://{self.address('http')}/v2/health/ready", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def count(self, model: str, what: str = "inference_count") -> int:
        """Return how many windows (or, as `execution_count`, batches) a model has been run on since the start."""
        with urllib.request.urlopen(f"http://{self.address('http')}/v2/models/{model}/stats") as answer:
            return int(json.load(answer)["model_stats"][0][what])

    def count_requests(self) -> int:
        """Return how many batches it was ever sent, those that it was killed with included; needs `--log-verbose=1`."""
        return self.log_path.read_text(errors="replace").count('/infer"')

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and to the processes of its backends."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it, `kill -9` unless another signal is given, with the processes of its backends."""
        if self._process is not None:
            self.send(number)
            self._process.wait()
            self._process = None
        for path in SHARED_MEMORY.glob(f"{self._shared}*"):
            path.unlink(missing_ok=True)

    def __enter__(self) -> TritonServer:
        """Start it."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.kill()

    def _command(self) -> list[str]:
        return [
            str(self._root / "bin" / "tritonserver"),
            f"--model-repository={self.repository}",
            f"--backend-directory={self._root / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._shared}",
            f"--http-address={HOST}",
            f"--http-port={self.http_port}",
            f"--grpc-address={HOST}",
            f"--grpc-port={self.grpc_port}",
            "--allow-metrics=false",
            *self.options,
        ]


def build_environment(folder: Path = ENVIRONMENT) -> Path:
    """Return the folder of the server, installed where it is not there yet."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locking(folder.parent):  # uv locks the environment itself, by a file of the same name
        if not (folder / READY).is_file():
            uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
            for command in (
                [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)],
                [uv, "pip", "install", "--quiet", "--python", str(_python(folder)), *PACKAGES],
            ):
                subprocess.run(command, check=True)
            server = _packages_dir(folder) / "pytriton" / "tritonserver"
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            stub = "triton_python_backend_stub"  # runs a model.py
            shutil.copy(
                server / "python_backend_stubs" / version / stub, server / "backends" / "python" / stub
            )
            (folder / READY).touch()
    return _packages_dir(folder) / "pytriton" / "tritonserver"


def two_free_ports() -> tuple[int, int]:
    """Return ports that nobody listens on."""
    with socket.socket() as one, socket.socket() as other:
        one.bind((HOST, 0))
        other.bind((HOST, 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _packages_dir(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _variables() -> dict[str, str]:
    """Return the environment in which the server's Python is that of its own packages."""
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    library_dirs = [str(sysconfig.get_config_var("LIBDIR")), inherited.get("LD_LIBRARY_PATH", "")]
    return {
        **inherited,
        "PATH": os.pathsep.join([str(ENVIRONMENT / "bin"), inherited.get("PATH", "")]),
        "VIRTUAL_ENV": str(ENVIRONMENT),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, library_dirs)),
    }
