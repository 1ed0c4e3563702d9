"""What a client of a Triton server does without one: addresses, patience, and one line that says what is missing."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from config.triton import TritonSettings
from run_utils.inference import patience
from run_utils.inference.patience import BusyError, Patience
from run_utils.inference.triton_client import TritonClient, complete_address
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("given", "address", "protocol", "tls"),
    [
        ("there:8000", "there:8000", "http", False),
        ("https://there:443/", "there:443", "http", True),
        ("grpc://10.0.0.1:8001", "10.0.0.1:8001", "grpc", False),
        ("grpcs://there:8001", "there:8001", "grpc", True),
    ],
)
def test_an_address_may_say_how_the_server_is_talked_to(given, address, protocol, tls) -> None:
    settings = complete_address(TritonSettings(given))
    assert (settings.address, settings.protocol, settings.tls) == (address, protocol, tls)


def test_the_address_comes_from_the_environment_where_none_is_set(monkeypatch) -> None:
    monkeypatch.setenv("NVIDIA_CLARA_TRTISURI", "clara:8000")
    assert complete_address(TritonSettings()).address == "clara:8000"
    assert complete_address(TritonSettings("mine:8000")).address == "mine:8000"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TritonSettings(), "set triton.address=host:port, or NVIDIA_CLARA_TRTISURI"),
        (TritonSettings("there"), "write host:port"),
        (TritonSettings("there:8000", certificates="a.pem"), "set triton.tls=true"),
        (TritonSettings("there:8000", certificates="a.pem", tls=True), "does not exist"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(settings, message, monkeypatch) -> None:
    monkeypatch.delenv("NVIDIA_CLARA_TRTISURI", raising=False)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        complete_address(settings)


@pytest.fixture
def nobody() -> Iterator[str]:
    """Give an address that is taken and never listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_is_not_there_is_asked_for_as_long_as_patience_lasts(protocol: str, nobody) -> None:
    client = TritonClient(TritonSettings(nobody, protocol, patience_s=0.6))
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=f"{nobody} has not answered for 0.6 s.*see that it runs"):
        client.config()
    assert 0.6 <= time.monotonic() - start < 5


def test_what_is_given_up_is_not_waited_for(nobody: str) -> None:
    client = TritonClient(TritonSettings(nobody, patience_s=60, requests=1))
    tiles = np.zeros((1, 8, 8, 3), np.uint8)
    start = time.monotonic()
    with ThreadPoolExecutor(2) as executor:  # one is asked, the other waits for its turn
        answers = [executor.submit(client.infer, tiles, ["nuclei"]) for _ in range(2)]
        wait_until(lambda: len(client._pending) == 2)
        client.give_up()
        assert all(isinstance(answer.exception(timeout=5), CancelledError) for answer in answers)
    assert time.monotonic() - start < 5


def test_threads_that_come_and_go_leave_no_open_files(nobody: str) -> None:
    def wait_for_the_end_of_clients() -> None:
        gc.collect()
        for thread in threading.enumerate():
            if thread.name == "triton":
                thread.join(timeout=2)

    def ask(client: TritonClient) -> None:
        with pytest.raises(ConnectionError):
            client.config()

    ask(TritonClient(TritonSettings(nobody, patience_s=0.01)))  # imports open files too
    wait_for_the_end_of_clients()
    count_open = psutil.Process().num_fds
    begun = count_open()
    others = set(threading.enumerate())
    client = TritonClient(TritonSettings(nobody, patience_s=0.01, requests=2))
    askers = set(threading.enumerate()) - others
    for _ in range(20):  # each slide has threads of its own
        thread = threading.Thread(target=ask, args=[client])
        thread.start()
        thread.join()
    assert count_open() - begun <= 2 * 4  # the client's own two threads, four each
    del client, thread
    gc.collect()
    assert len(askers) == 2 and not any(asker.is_alive() for asker in askers)  # Python crashes beside them
    assert count_open() <= begun


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_takes_requests_and_never_answers_is_not_waited_for(protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = TritonSettings(
            f"127.0.0.1:{silent.getsockname()[1]}", protocol, timeout_s=0.3, patience_s=0.1
        )
        with pytest.raises(ConnectionError, match="has not answered"):
            TritonClient(settings).config()


def test_pauses_grow_and_what_is_no_absence_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append)
    monkeypatch.setattr(patience, "time", clock)

    def fail_three_times() -> str:
        if len(pauses) < 3:
            raise BusyError("full")
        return "answer"

    assert Patience("server", 60).persist(fail_three_times) == "answer"
    for pause, longest in zip(pauses, (0.25, 0.5, 1), strict=True):
        assert longest / 2 <= pause <= longest
    with pytest.raises(RuntimeError, match="wrong"):
        Patience("server", 60).persist(lambda: (_ for _ in ()).throw(RuntimeError("wrong")))


def test_an_absence_is_told_once_whatever_number_of_threads_meets_it(caplog) -> None:
    barrier = threading.Barrier(3)
    waiting = Patience("server", 60)

    def ask() -> None:
        tries = iter([BusyError("gone"), None])

        def once() -> None:
            error = next(tries)
            barrier.wait(30)  # nobody is answered before all have missed an answer
            if error:
                raise error

        waiting.persist(once)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "does not answer" in line]) == 1
    assert len([line for line in said if "answers again" in line]) == 1
