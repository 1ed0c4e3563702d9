"""A file at an output's address that says who writes there: runs on two machines refuse each other."""

from __future__ import annotations

import fcntl
import json
import logging
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dataloader.address import Address
from run_utils.files import locking, replacing
from run_utils.inference.output_folder import working_dir

logger = logging.getLogger(__name__)

FILE_NAME = "run.lock"
BEAT_S = 60.0  # after which a run says that it still lives
STALE_S = 600.0  # of silence after which a run counts as dead; clocks of machines differ by less
SETTLE_S = 5.0  # after which of several that take over from a dead one, the last to say so has it
IS_LOST = "a run on another machine has taken over, since nothing was heard of this one: it ends"


@contextmanager
def holding_address(output: Path | Address) -> Iterator[None]:
    """Keep runs that work in another folder of the machine, or on another one, out of an address while the block runs.

    Runs with the same working folder share the work, as those that write to one local folder do; one that was killed
    is gone on with from there at once, from elsewhere once it has been silent for ten minutes. One that was only
    asleep is stopped when it wakes: its main thread, as Ctrl-C does. A local folder is not held: nothing happens.

    Raises:
        ValueError: another run is there.
        OSError: the address cannot be written, or another run has taken it over.
    """
    if not isinstance(output, Address):
        yield
        return
    folder = working_dir(output)
    folder.mkdir(parents=True, exist_ok=True)
    lock = output / FILE_NAME
    with _obeying_interrupts(), (folder / ".address.lock").open("a+b") as sharers:
        fcntl.flock(sharers, fcntl.LOCK_SH)
        token = _token(folder)
        _take(lock, token, output)
        logger.info("%s: worked on in %s; what is finished of a slide is uploaded", output, folder)
        beat = _Beat(lock, token)
        beat.start()
        try:
            yield
        except KeyboardInterrupt as error:
            if not beat.is_lost:
                raise
            raise OSError(f"{output}: {IS_LOST}") from error
        finally:
            beat.stop()
            _let_go(lock, token, sharers)


@contextmanager
def _obeying_interrupts() -> Iterator[None]:
    """Let SIGINT stop the main thread where it is ignored, as in what a script starts with `&`."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Beat(threading.Thread):
    """Says now and then that a run lives, and stops it where another has taken its place.

    Attributes:
        is_lost: whether one has.
    """

    def __init__(self, lock: Address, token: str) -> None:
        super().__init__(name="hold address", daemon=True)
        self.is_lost = False
        self._lock, self._token = lock, token
        self._is_over = threading.Event()
        self._stops_main = threading.current_thread() is threading.main_thread()

    def run(self) -> None:
        while not self._is_over.wait(BEAT_S):
            try:
                if _read(self._lock).get("token") == self._token:
                    self._lock.write(_content(self._token))
                    continue
            except OSError as error:  # what has to be written fails by itself
                logger.warning("%s", error)
                continue
            logger.error("%s: %s", self._lock, IS_LOST)
            self.is_lost = True
            if self._stops_main:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return

    def stop(self) -> None:
        """Say nothing more."""
        self._is_over.set()
        self.join()


def _token(folder: Path) -> str:
    """Return the name of a working folder, made up by the first run there."""
    path = folder / ".name"
    with locking(folder):
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_text(uuid.uuid4().hex)
        return path.read_text()


def _take(lock: Address, token: str, output: Address) -> None:
    is_taken_over = False
    while (held := _read(lock)).get("token") != token:
        if not held:
            with suppress(FileExistsError):
                lock.create(_content(token))
            if is_taken_over:
                time.sleep(SETTLE_S)  # others may have found it dead too, and remove what is there now
            continue
        silence = time.time() - held["time"]
        if silence < STALE_S:
            raise ValueError(
                f"another run is writing to {output}, and said so {silence:.0f} s ago: let it end, or give another "
                "output=; one that was killed is gone on with where it ran, or from here once it has been silent for "
                f"{STALE_S:.0f} s"
            )
        logger.warning("%s: who held it has been silent for %.0f s: it is taken over", output, silence)
        is_taken_over = True
        with suppress(FileNotFoundError):
            lock.remove()
    lock.write(_content(token))


def _let_go(lock: Address, token: str, sharers: Any) -> None:
    try:
        fcntl.flock(sharers, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _read(lock).get("token") == token:
            lock.remove()
    except BlockingIOError:  # another run of this machine goes on there
        pass
    except OSError as error:
        logger.warning("%s; runs on other machines wait %.0f s for it", error, STALE_S)


def _content(token: str) -> bytes:
    return json.dumps({"token": token, "time": time.time()}).encode()


def _read(lock: Address) -> dict[str, Any]:
    """Return whose a lock is, and when that was said; without token where its writer was killed as it began."""
    try:
        held: dict[str, Any] = json.loads(lock.read())
        return {"token": str(held["token"]), "time": float(held["time"])}
    except FileNotFoundError:  # it has just been let go
        return {}
    except (ValueError, KeyError, TypeError):
        return {"token": "", "time": lock.changed()}
