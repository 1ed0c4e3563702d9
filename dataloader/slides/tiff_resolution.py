"""How many µm a TIFF's pixel has, from the places where scanners and programs write it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree import ElementTree

import tifffile

PLAUSIBLE_MPP = (0.05, 20.0)  # µm/px of a microscope; a printer's 72 dpi is 353
UM_PER_UNIT = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4}  # micro sign, Greek mu
UM_PER_RESOLUTION_UNIT = {tifffile.RESUNIT.INCH: 25_400.0, tifffile.RESUNIT.CENTIMETER: 10_000.0}
UM_TIMES_POWER = 10.0  # an objective of 40x gives about 0.25 µm/px, of 20x about 0.5


def find_mpp(file: Any, page: Any) -> float | None:
    """Return µm to a pixel of ``page``, the mean of both axes, or None where the file does not say.

    In order of trust: Aperio's ``MPP``, OME's ``PhysicalSizeX/Y``, the TIFF resolution tags (only in inch or
    cm), the objective's power. A value outside 0.05..20 µm is passed over.

    Args:
        file: the open ``tifffile.TiffFile``.
        page: the page of level 0.
    """
    return first_plausible(candidate for source in _SOURCES for candidate in source(file, page))


def first_plausible(candidates: Iterable[float]) -> float | None:
    """Return the first that can be a microscope's µm/px, or None."""
    return next((mpp for mpp in candidates if PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]), None)


def _from_aperio(file: Any, page: Any) -> Iterator[float]:
    yield from _number_after("MPP", page.description)


def _from_ome(file: Any, page: Any) -> Iterator[float]:
    if not file.is_ome:
        return
    try:
        root = ElementTree.fromstring(file.ome_metadata or "<OME/>")
    except ElementTree.ParseError:
        return
    sizes = []
    for pixels in root.iterfind(".//{*}Pixels"):
        if pixels.get("SizeX") != str(page.imagewidth):
            continue
        for axis in "XY":
            size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
            if size is not None and unit in UM_PER_UNIT:
                sizes.append(float(size) * UM_PER_UNIT[unit])
    if sizes:
        yield sum(sizes) / len(sizes)


def _from_resolution_tags(file: Any, page: Any) -> Iterator[float]:
    um_per_unit = UM_PER_RESOLUTION_UNIT.get(page.resolutionunit)
    if um_per_unit is not None and min(page.resolution) > 0:
        yield sum(um_per_unit / pixels for pixels in page.resolution) / 2


def _from_objective(file: Any, page: Any) -> Iterator[float]:
    yield from (UM_TIMES_POWER / power for power in _number_after("AppMag", page.description) if power > 0)


_SOURCES = (_from_aperio, _from_ome, _from_resolution_tags, _from_objective)


def _number_after(key: str, description: str) -> Iterator[float]:
    """Yield the number in Aperio's ``… |key = number| …``, if it is there."""
    match = re.search(rf"\b{key}\s*=\s*(\d+(?:\.\d+)?)", description)
    if match:
        yield float(match.group(1))
