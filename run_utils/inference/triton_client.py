"""Talks to a Triton server: threads with a connection each, and requests that outlive a server's absence.

The one file that imports tritonclient, when `predictor=triton` is chosen.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import queue
import re
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from config.triton import TritonSettings
from run_utils.inference.patience import BusyError, Patience

logger = logging.getLogger(__name__)

ADDRESS_VARIABLE = "NVIDIA_CLARA_TRTISURI"
ADDRESS = re.compile(r"(?:(?P<scheme>https?|grpcs?)://)?(?P<host>[^\s/]+:\d+)/*")
PACKAGES = {"http": "geventhttpclient", "grpc": "grpc"}  # that tritonclient needs for each protocol
CONFIG_TIMEOUT_S = 30.0  # of questions that need no network
ENDING_S = 5.0  # that threads get to end; one whose server is away may take longer
RECONNECT_MS = 2000  # gRPC tries again at least as often; its own limit is two minutes
LARGEST_MESSAGE = 2**31 - 1  # bytes, gRPC's own limit
# How servers, and what stands before them, say that they will answer later, by HTTP status and gRPC code
BUSY = {"408", "425", "429", "502", "503", "504"}
BUSY |= {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"}
WRONG = {"400", "401", "403", "404", "INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND"}
RESTARTS = "is not healthy"  # the process of a Python backend died: the server starts another
# What a certificate is refused with, by OpenSSL and, the latter two, by gRPC where it is of another host
UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed", "not in peer certificate")
OTHER_VERSION = "' version "  # of a model's name: the server has the name, but not what it stood for
TOO_LARGE = "message larger than max"  # gRPC says it with the status of a busy server

Answer = TypeVar("Answer")


class TritonClient:
    """Asks a server for maps; called from as many threads as may be.

    Args:
        settings: of the server; where their address is empty, the environment's is taken.

    Raises:
        ValueError: where there is no address, it is none, or tritonclient is not installed.
    """

    def __init__(self, settings: TritonSettings) -> None:
        self.settings = complete_address(settings)
        self.address = self.settings.address
        _check_installed(self.settings.protocol)
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self._pending: set[Future[Any]] = set()
        patience = Patience(f"Triton server at {self.address}", settings.patience_s)
        askers = [Asker(self.settings, patience, self._questions) for _ in range(settings.requests)]
        threads = [threading.Thread(target=asker.work, name="triton", daemon=True) for asker in askers]
        for thread in threads:
            thread.start()
        weakref.finalize(self, _dismiss, self._questions, threads)

    def config(self) -> dict[str, Any]:
        """Return the model's configuration; errors as of `infer`."""
        return self._ask(lambda connection: connection.config())

    def infer(self, tiles: np.ndarray, names: Sequence[str], version: str = "") -> list[np.ndarray]:
        """Return the named maps of (N, H, W, 3) uint8 RGB tiles; they may not be written to.

        Args:
            tiles: to predict.
            names: of the maps.
            version: of the model; the server's choice where it is left out.

        Raises:
            CancelledError: it was given up.
            ConnectionError: the server did not answer for `patience_s`.
            ValueError: it does not take such tiles, or has no such model.
            RuntimeError: it failed.
        """
        return self._ask(lambda connection: connection.infer(tiles, names, version))

    def give_up(self) -> None:
        """End the waiting for all answers: nobody wants them any longer."""
        for answer in list(self._pending):
            answer.cancel()

    def _ask(self, ask: Callable[[Connection], Answer]) -> Answer:
        answer: Future[Answer] = Future()
        self._pending.add(answer)
        self._questions.put(Question(ask, answer))
        try:
            return answer.result()
        finally:
            self._pending.discard(answer)


class Question(NamedTuple):
    """What is asked, and where the answer goes; whoever cancels that wants none."""

    ask: Callable[[Connection], Any]
    answer: Future[Any]


class Asker:
    """Asks one question after another over a connection of its own, in a thread that lives as long as the client.

    tritonclient's HTTP connection belongs to a thread, which holds four files for it (those of gevent's hub).

    Args:
        settings: of the server, its address included.
        patience: shared by all of a client.
        questions: shared by all of a client; None ends one of them.
    """

    def __init__(
        self, settings: TritonSettings, patience: Patience, questions: queue.SimpleQueue[Question | None]
    ) -> None:
        self.settings = settings
        self.patience = patience
        self.questions = questions
        self._connection: Connection | None = None

    def work(self) -> None:
        """Ask until there are no more questions, then let go of what the thread held."""
        while self._work_once():
            pass
        self._hang_up()
        if self.settings.protocol == "http":
            importlib.import_module("gevent").get_hub().destroy(destroy_loop=True)

    def _work_once(self) -> bool:
        question = self.questions.get()
        if question is None:
            return False
        answer = question.answer
        with suppress(InvalidStateError):  # given up meanwhile
            try:
                answer.set_result(self.patience.persist(lambda: self._ask(question)))
            except Exception as error:  # raised where the answer is waited for
                answer.set_exception(error)
        return True

    def _ask(self, question: Question) -> Any:
        if question.answer.cancelled():
            raise CancelledError
        if self._connection is None:
            self._connection = Connection(self.settings)
        try:
            return question.ask(self._connection)
        except BusyError:
            self._hang_up()  # the next try begins with a new one
            raise

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _dismiss(questions: queue.SimpleQueue[Question | None], threads: Sequence[threading.Thread]) -> None:
    """End threads, and wait for them: Python crashes where it ends while one of them destroys its hub."""
    for _ in threads:
        questions.put(None)
    deadline = time.monotonic() + ENDING_S
    for thread in threads:
        if thread is not threading.current_thread():  # where the last to let go of the client is one of them
            thread.join(max(deadline - time.monotonic(), 0.0))


class Connection:
    """What one thread uses to talk to a server: tritonclient's HTTP and gRPC clients differ in little.

    Args:
        settings: of the server, its address included.
    """

    def __init__(self, settings: TritonSettings) -> None:
        self.settings = settings
        self._protocol = importlib.import_module(f"tritonclient.{settings.protocol}")
        opens = _open_http if settings.protocol == "http" else _open_grpc
        self._client = opens(self._protocol, settings)

    def config(self) -> dict[str, Any]:
        """Return the model's configuration, a dictionary of plain data."""
        with self._judging():
            if self.settings.protocol == "http":
                config: dict[str, Any] = self._client.get_model_config(self.settings.model)
                return config
            answer = self._client.get_model_config(
                self.settings.model,
                as_json=True,
                client_timeout=min(self.settings.timeout_s, CONFIG_TIMEOUT_S),
            )
            content: dict[str, Any] = answer["config"]
            return content

    def infer(self, tiles: np.ndarray, names: Sequence[str], version: str) -> list[np.ndarray]:
        """Return the named maps of (N, H, W, 3) uint8 RGB tiles; an empty version leaves it to the server."""
        given = self._protocol.InferInput("tiles", list(tiles.shape), "UINT8")
        given.set_data_from_numpy(tiles)
        wanted = [self._protocol.InferRequestedOutput(name) for name in names]
        options = {} if self.settings.protocol == "http" else {"client_timeout": self.settings.timeout_s}
        with self._judging():
            answer = self._client.infer(self.settings.model, [given], version, wanted, **options)
        try:
            return [answer.as_numpy(name) for name in names]
        except ValueError as error:
            raise RuntimeError(
                f"the Triton server at {self.settings.address} gave maps without content ({error}): its Python backend "
                "may want numpy<2"
            ) from error

    def close(self) -> None:
        """End it, from the thread that used it."""
        self._client.close()

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Turn what tritonclient raises into what it means."""
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as error:
            status = (error.status() or "").removeprefix("StatusCode.")
            raise _judge(status, _one_line(error.message()), self.settings) from error
        except (OSError, HTTPException) as error:
            raise _judge("UNAVAILABLE", _one_line(error), self.settings) from error


def complete_address(settings: TritonSettings) -> TritonSettings:
    """Return settings with an address, `host:port`, and what its scheme says, `https://` for instance.

    Raises:
        FileNotFoundError: the file of certificates is not there.
        ValueError: neither settings nor environment give an address, it is none, or certificates come without TLS.
    """
    given = settings.address or os.environ.get(ADDRESS_VARIABLE, "")
    if not given:
        raise ValueError(
            f"predictor=triton needs a server: set triton.address=host:port, or {ADDRESS_VARIABLE} in the environment"
        )
    match = ADDRESS.fullmatch(given)
    if match is None:
        raise ValueError(f"triton.address={given} is no address; write host:port, such as localhost:8000")
    changes: dict[str, Any] = {"address": match["host"]}
    if scheme := match["scheme"]:
        changes["protocol"] = "http" if scheme.startswith("http") else "grpc"
        changes["tls"] = settings.tls or scheme.endswith("s")
    completed = replace(settings, **changes)
    if completed.certificates and not completed.tls:
        raise ValueError(f"triton.certificates={completed.certificates} is for TLS; set triton.tls=true too")
    if completed.certificates and not Path(completed.certificates).is_file():
        raise FileNotFoundError(f"triton.certificates={completed.certificates} does not exist")
    return completed


def _check_installed(protocol: str) -> None:
    missing = [
        name for name in ("tritonclient", PACKAGES[protocol]) if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ValueError(
            f"predictor=triton needs {' and '.join(missing)}, not installed here: "
            "uv pip install -r pyproject.toml --extra triton -c constraints.txt"
        )


def _open_http(protocol: Any, settings: TritonSettings) -> Any:
    certificates = _trusted(settings)
    return protocol.InferenceServerClient(
        settings.address,
        connection_timeout=min(settings.timeout_s, CONFIG_TIMEOUT_S),
        network_timeout=settings.timeout_s,
        ssl=settings.tls,
        ssl_options={"ca_certs": certificates} if certificates else {},
    )


def _open_grpc(protocol: Any, settings: TritonSettings) -> Any:
    arguments = [
        ("grpc.max_send_message_length", LARGEST_MESSAGE),
        ("grpc.max_receive_message_length", LARGEST_MESSAGE),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
        # each connection for itself: a new one does not wait for an old one
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return protocol.InferenceServerClient(
        settings.address,
        ssl=settings.tls,
        root_certificates=_trusted(settings),
        channel_args=arguments,
    )


def _trusted(settings: TritonSettings) -> str | None:
    """Return the file of trusted certificates, the user's own or the system's; None where it has none."""
    return settings.certificates or ssl.get_default_verify_paths().cafile


def _judge(status: str, message: str, settings: TritonSettings) -> Exception:
    """Return the exception that an answer stands for: BusyError where asking again may help."""
    server = f"the Triton server at {settings.address}"
    if any(words in message for words in UNTRUSTED):
        return ValueError(
            f"{server} shows a certificate that is not trusted here, or not for this host ({message}); name the file "
            "that it is checked against with triton.certificates=, and the host as the certificate does"
        )
    if TOO_LARGE in message:
        return ValueError(
            f"a request to {server}, or its answer, is too large for gRPC ({message}); set a smaller window= or "
            "batch_size=, or triton.protocol=http"
        )
    if status in BUSY or RESTARTS in message:
        return BusyError(message)
    if status in WRONG and OTHER_VERSION in message:
        return ValueError(
            f"{server} runs another network as {settings.model!r} than when this run began ({message}); "
            "bring that one back, or start again with this one's checkpoint="
        )
    if status in WRONG:
        return ValueError(f"{server} refuses model {settings.model!r} ({message}); see triton.model=")
    return RuntimeError(f"{server} failed: {message}")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:400] or type(text).__name__
