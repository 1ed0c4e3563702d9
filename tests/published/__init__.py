"""Data sets in their published layouts, written by the tests: what the contract of the adapters reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.published.base import Published
from tests.published.conic import publish_conic
from tests.published.consep import publish_consep
from tests.published.generic import publish_colour_masks, publish_folder
from tests.published.kumar import publish_cpm17, publish_kumar
from tests.published.lizard import publish_lizard
from tests.published.monusac import publish_monusac
from tests.published.monuseg import publish_monuseg
from tests.published.nuinsseg import publish_nuinsseg
from tests.published.outlined import publish_coco, publish_geojson
from tests.published.pannuke import publish_pannuke
from tests.published.tnbc import publish_tnbc

__all__ = ["PUBLISHED", "Published"]

PUBLISHED: dict[str, Callable[[Path], Published]] = {
    "coco": publish_coco,
    "colour_masks": publish_colour_masks,
    "conic": publish_conic,
    "consep": publish_consep,
    "cpm17": publish_cpm17,
    "folder": publish_folder,
    "geojson": publish_geojson,
    "kumar": publish_kumar,
    "lizard": publish_lizard,
    "monusac": publish_monusac,
    "monuseg": publish_monuseg,
    "nuinsseg": publish_nuinsseg,
    "pannuke": publish_pannuke,
    "tnbc": publish_tnbc,
}
"""A row for each row of ``dataloader.annotations.ADAPTERS``."""
