"""A file at an output's address that says who writes there: runs on two machines refuse each other."""

from __future__ import annotations

import fcntl
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dataloader.address import Address
from run_utils.inference.output_folder import working_dir

logger = logging.getLogger(__name__)

FILE_NAME = "run.lock"
BEAT_S = 60.0  # after which a run says that it still lives
STALE_S = 600.0  # of silence after which a run counts as dead; clocks of machines differ by less


@contextmanager
def holding_address(output: Path | Address) -> Iterator[None]:
    """Keep runs that work in another folder of the machine, or on another one, out of an address while the block runs.

    Runs with the same working folder share the work, as those that write to one local folder do; one that was killed
    is gone on with from there at once, from elsewhere once it has been silent for ten minutes. A local folder is not
    held: nothing happens.

    Raises:
        ValueError: another run is there.
        OSError: the address cannot be written.
    """
    if not isinstance(output, Address):
        yield
        return
    folder = working_dir(output)
    folder.mkdir(parents=True, exist_ok=True)
    lock = output / FILE_NAME
    with (folder / ".address.lock").open("a+b") as sharers:
        fcntl.flock(sharers, fcntl.LOCK_SH)
        token = _token(folder)
        _take(lock, token, output)
        logger.info("%s: worked on in %s; what is finished of a slide is uploaded", output, folder)
        is_over = threading.Event()
        beats = threading.Thread(target=_beat, args=(lock, token, is_over), name="hold address", daemon=True)
        beats.start()
        try:
            yield
        finally:
            is_over.set()
            beats.join()
            _let_go(lock, sharers)


def _token(folder: Path) -> str:
    """Return the name of a working folder, made up by the first run there."""
    path = folder / ".name"
    try:
        with path.open("x") as file:
            file.write(uuid.uuid4().hex)
    except FileExistsError:
        pass
    return path.read_text()


def _take(lock: Address, token: str, output: Address) -> None:
    while True:
        try:
            lock.create(_content(token))
            return
        except FileExistsError:
            held = _read(lock)
        if held.get("token") == token:
            lock.write(_content(token))
            return
        silence = time.time() - held.get("time", time.time())
        if held and silence < STALE_S:
            raise ValueError(
                f"another run is writing to {output}, and said so {silence:.0f} s ago: let it end, or give another "
                "output=; one that was killed is gone on with where it ran, or from here once it has been silent for "
                f"{STALE_S:.0f} s"
            )
        if held:
            logger.warning("%s: who held it has been silent for %.0f s: it is taken over", output, silence)
            with suppress(FileNotFoundError):
                lock.remove()


def _beat(lock: Address, token: str, is_over: threading.Event) -> None:
    while not is_over.wait(BEAT_S):
        try:
            lock.write(_content(token))
        except OSError as error:  # what has to be written fails by itself
            logger.warning("%s", error)


def _let_go(lock: Address, sharers: Any) -> None:
    try:
        fcntl.flock(sharers, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.remove()
    except BlockingIOError:  # another run of this machine goes on there
        pass
    except OSError as error:
        logger.warning("%s; runs on other machines wait %.0f s for it", error, STALE_S)


def _content(token: str) -> bytes:
    return json.dumps({"token": token, "time": time.time()}).encode()


def _read(lock: Address) -> dict[str, Any]:
    try:
        held: dict[str, Any] = json.loads(lock.read())
    except FileNotFoundError:  # it has just been let go
        return {}
    return held
