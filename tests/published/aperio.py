"""XML of Aperio ImageScope, written by the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<Annotations MicronsPerPixel="0.252000">'
ANNOTATION = (
    '<Annotation Id="{number}" Name="" ReadOnly="0" Visible="1" Type="4"><Attributes>'
    '<Attribute Name="{name}" Id="0" Value=""/></Attributes><Regions><RegionAttributeHeaders/>'
)
REGION = (
    '<Region Id="{number}" Type="0" Zoom="1" Text="" NegativeROA="0"><Attributes/><Vertices>{vertices}'
    "</Vertices></Region>"
)


def write_aperio_xml(path: Path, rings: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Write an annotation for each name, with a region for each of its (N, 2) rings of (x, y)."""
    parts = [HEAD]
    for number, (name, outlines) in enumerate(rings.items(), start=1):
        parts.append(ANNOTATION.format(number=number, name=name))
        for region, ring in enumerate(outlines, start=1):
            vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z=""/>' for x, y in ring)
            parts.append(REGION.format(number=region, vertices=vertices))
        parts.append("</Regions><Plots/></Annotation>")
    path.write_text("\n".join([*parts, "</Annotations>"]))


def outline_rectangles(label_map: np.ndarray) -> dict[int, np.ndarray]:
    """Return the outline of each nucleus, all of them rectangles, along the borders of its pixels."""
    rings = {}
    for number in range(1, int(label_map.max()) + 1):
        rows, columns = np.nonzero(label_map == number)
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        rings[number] = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return rings
