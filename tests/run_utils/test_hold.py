"""Who writes to an address: one run at a time, whatever was killed, asleep or cut off."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dataloader.address import Address
from run_utils.inference import hold
from run_utils.inference.hold import holding_address
from run_utils.inference.output_folder import working_dir


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOVERNET_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(hold, "BEAT_S", 0.02)
    monkeypatch.setattr(hold, "SETTLE_S", 0.3)


def whose(lock: Address) -> str:
    return json.loads(lock.read())["token"]


@pytest.mark.parametrize("left", [b"", b"{", b"7", b"null"])
def test_a_lock_that_was_never_finished_holds_by_its_time(left: bytes, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    lock = tmp_path / "out" / "run.lock"
    lock.write_bytes(left)
    output = Address(f"file://{tmp_path}/out")
    with (
        pytest.raises(ValueError, match=r"another run is writing to file:.*said so \d+ s ago"),
        holding_address(output),
    ):
        pass
    os.utime(lock, (1, 1))
    with holding_address(output):
        assert len(whose(output / "run.lock")) == 32
    assert not lock.exists()


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_a_run_that_slept_too_long_ends_when_it_wakes_and_leaves_the_lock_to_the_other(handler: Any) -> None:
    name = f"memory://slept{handler == signal.SIG_IGN}"  # ignored, as of what a script starts with &
    output = Address(name)
    before = signal.signal(signal.SIGINT, handler)
    gone = rf"{name}: a run on another machine has taken over.* it ends"
    try:
        with pytest.raises(OSError, match=gone), holding_address(output):
            for _ in range(50):  # a beat that has just looked may write once more
                (output / "run.lock").write(hold._content("other"))
                time.sleep(0.1)
            pytest.fail("it was not stopped")
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert whose(output / "run.lock") == "other"


def test_a_thread_holds_an_address_where_interrupts_are_ignored() -> None:
    def hold_once() -> str:
        with holding_address(Address("memory://thread")):
            return whose(Address("memory://thread/run.lock"))

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ThreadPoolExecutor(1) as pool:  # a thread may not set a handler
            assert len(pool.submit(hold_once).result(20)) == 32
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_ends_before_its_next_beat_leaves_the_lock_to_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hold, "BEAT_S", 60.0)
    output = Address("memory://ended")
    with holding_address(output):
        (output / "run.lock").write(hold._content("other"))
    assert whose(output / "run.lock") == "other"


def test_of_two_that_find_a_lock_dead_at_once_one_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "SETTLE_S", 2.0)
    output, both, results = Address("memory://dead"), threading.Barrier(2), {}
    lock = output / "run.lock"
    lock.write(json.dumps({"token": "dead", "time": 0}).encode())
    remove, create, is_created = Address.remove, Address.create, threading.Event()

    def remove_slowly(address: Address) -> None:
        if both.wait(30):  # both have seen it dead; one is slower, and removes what the other has created
            assert is_created.wait(30)
        remove(address)

    def create_and_say(address: Address, data: bytes) -> None:
        create(address, data)
        is_created.set()

    def take(token: str) -> None:
        try:
            hold._take(lock, token, output)
            results[token] = True
        except ValueError:
            results[token] = False

    monkeypatch.setattr(Address, "remove", remove_slowly)
    monkeypatch.setattr(Address, "create", create_and_say)
    threads = [threading.Thread(target=take, args=(token,)) for token in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results.values()) == [False, True] and results[whose(lock)]


def test_a_store_that_ignores_exclusive_writes_lets_no_later_run_in(monkeypatch: pytest.MonkeyPatch) -> None:
    output = Address("memory://ignores")
    monkeypatch.setattr(Address, "create", Address.write)
    (output / "run.lock").write(hold._content("other"))
    with pytest.raises(ValueError, match="another run is writing"), holding_address(output):
        pass
    assert whose(output / "run.lock") == "other"


def test_another_user_or_server_has_another_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(url: str) -> Path:
        return working_dir(Address(url))

    assert folder("sftp://ann:old@host/run") == folder("sftp://ann:new@host/run/")  # whatever the password
    assert folder("sftp://ann@host/run") != folder("sftp://bob@host/run") != folder("sftp://host/run")
    before = folder("s3://bucket/run")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert folder("s3://bucket/run") != before
