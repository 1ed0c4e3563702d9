"""Asking a server again that is away or busy, for as long as it may be so."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0

Answer = TypeVar("Answer")


class BusyError(Exception):
    """The server does not answer now, but may later."""


class Patience:
    """Tries again, with growing and random pauses, what fails because a server is away or busy.

    Args:
        name: of the server, for messages.
        seconds: from the first failure on for which it tries.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self.seconds = seconds
        self._random = random.Random()  # of pauses alone: processes must not come back all at once
        self._lock = threading.Lock()
        self._away_since: float | None = None

    def persist(self, ask: Callable[[], Answer]) -> Answer:
        """Return what a function does once it raises no BusyError; ConnectionError where patience ends before."""
        first_failure: float | None = None
        pause = FIRST_PAUSE_S
        while True:
            try:
                answer = ask()
            except BusyError as error:
                now = time.monotonic()
                first_failure = now if first_failure is None else first_failure
                self._note_failure(now, error)
                left = first_failure + self.seconds - now
                if left <= 0:
                    raise ConnectionError(
                        f"the {self.name} has not answered for {self.seconds:g} s ({error}): see that it runs there, "
                        "and start again, or give another triton.address="
                    ) from error
                time.sleep(min(self._random.uniform(pause / 2, pause), left))
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            self._note_answer()
            return answer

    def _note_failure(self, now: float, error: BusyError) -> None:
        with self._lock:
            if self._away_since is None:
                self._away_since = now
                logger.warning(
                    "the %s does not answer (%s): tries again for %g s", self.name, str(error), self.seconds
                )

    def _note_answer(self) -> None:
        with self._lock:
            if self._away_since is not None:
                away_s = time.monotonic() - self._away_since
                logger.warning("the %s answers again, after %.1f s", self.name, away_s)
                self._away_since = None
