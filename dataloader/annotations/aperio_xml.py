"""Outlines from the XML of Aperio ImageScope: `Annotation` elements with a `Region` for each nucleus.

Files come from strangers, so they are parsed without a document type: neither entities nor outside files.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

MIN_VERTICES = 3  # fewer enclose nothing: a click or a ruler

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Region:
    """An outline.

    Attributes:
        name: where it stands in the file, for messages.
        type_name: name of the first attribute of its annotation, empty where it has none.
        ring: (N, 2) float (x, y), px of the image, N at least 3.
    """

    name: str
    type_name: str
    ring: np.ndarray


def read_aperio_xml(path: Path) -> list[Region]:
    """Read the outlines of a file, in its order.

    Regions that enclose nothing (fewer than three vertices) or mark what to leave out (``NegativeROA``) are left
    out and counted in the log.

    Raises:
        ValueError: for a file that is truncated, has a document type, or is not of this kind.
    """
    try:
        root = parse(path, forbid_dtd=True).getroot()
    except DefusedXmlException as error:
        raise ValueError(
            f"{path}: has a document type or entities, which no annotation needs and which can be an attack; "
            "remove its <!DOCTYPE>"
        ) from error
    except (
        ParseError,
        LookupError,
        ValueError,
    ) as error:  # LookupError, ValueError: an encoding that is none
        raise ValueError(f"{path}: not a whole XML file ({error}); fetch the file again") from error
    if root.tag != "Annotations":
        raise ValueError(
            f"{path}: its root is <{root.tag}>; Aperio's is <Annotations>, save it from ImageScope"
        )
    regions = []
    num_skipped = 0
    for annotation_number, annotation in enumerate(root.iter("Annotation"), start=1):
        attribute = annotation.find("./Attributes/Attribute")
        type_name = "" if attribute is None else attribute.get("Name", "").strip()
        for number, element in enumerate(annotation.iterfind("./Regions/Region"), start=1):
            name = f"annotation {annotation_number} region {number}"
            ring = _read_ring(f"{path}: {name}", element)
            if len(ring) < MIN_VERTICES or element.get("NegativeROA") == "1":
                num_skipped += 1
                continue
            regions.append(Region(name, type_name, ring))
    if num_skipped:
        logger.warning("%s: %d regions enclose no nucleus and are left out", path, num_skipped)
    return regions


def _read_ring(what: str, region: Element) -> np.ndarray:
    vertices = list(region.iterfind("./Vertices/Vertex"))
    try:
        points = [(float(vertex.attrib["X"]), float(vertex.attrib["Y"])) for vertex in vertices]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{what}: a vertex without numbers X and Y ({error}); mend the file") from error
    return np.array(points, np.float64).reshape(-1, 2)
