"""How every process of a command says what it does."""

from __future__ import annotations

import logging

FORMAT, TIME_FORMAT = "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"


def start_logging() -> None:
    """Write what is worth telling to the standard error, with the time of day."""
    logging.basicConfig(level=logging.INFO, format=FORMAT, datefmt=TIME_FORMAT)
