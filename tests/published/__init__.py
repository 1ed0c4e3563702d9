"""Data sets in their published layouts, written by the tests: what the contract of the adapters reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.published.base import Published
from tests.published.conic import publish_conic
from tests.published.consep import publish_consep
from tests.published.lizard import publish_lizard
from tests.published.pannuke import publish_pannuke

__all__ = ["PUBLISHED", "Published"]

PUBLISHED: dict[str, Callable[[Path], Published]] = {
    "conic": publish_conic,
    "consep": publish_consep,
    "lizard": publish_lizard,
    "pannuke": publish_pannuke,
}
"""A row for each row of ``dataloader.annotations.ADAPTERS``."""
