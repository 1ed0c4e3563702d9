"""Regions of interest that a user drew, as polygons: a GeoJSON file of QuPath, or boxes written as text."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely

SUFFIXES = (".geojson", ".json", ".gz")
POLYGONS = ("Polygon", "MultiPolygon")
OTHER_GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString")
BOX_FORM = "boxes are written x,y,width,height in level-0 pixels, joined by ;"
REMEDY = "export annotations that enclose an area from QuPath as GeoJSON"


def read_outlines(source: str | Path, shape_level0: tuple[int, int] | None = None) -> shapely.Geometry:
    """Read regions of interest.

    Polygons that cross themselves are repaired, their loops kept; polygons that overlap are united.

    Args:
        source: path of a GeoJSON file (``.geojson``, ``.json``, either also ``.gz``): a feature collection, a
            feature, a list of features or a geometry, coordinates in level-0 pixels as QuPath exports them; or
            boxes as text, ``"x,y,width,height"`` in level-0 pixels, joined by ``;``.
        shape_level0: (height, width) of the slide, in which some of the regions must lie; None checks nothing.

    Returns:
        Polygon or MultiPolygon, valid and not empty, in level-0 (x, y) pixels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: neither of both, damaged, without an area, or wholly outside of the slide.
    """
    is_file = isinstance(source, Path) or source.strip().lower().endswith(SUFFIXES)
    polygons = _read_file(Path(str(source).strip())) if is_file else _read_boxes(str(source))
    outlines = shapely.union_all(polygons)
    if outlines.area == 0:
        raise ValueError(f"regions={source} holds no polygon with an area; {REMEDY}")
    if shape_level0 is not None:
        check_outlines(outlines, shape_level0, source)
    return outlines


def check_outlines(outlines: shapely.Geometry, shape_level0: tuple[int, int], source: str | Path) -> None:
    """Refuse outlines of which nothing lies in the slide.

    Args:
        outlines: in level-0 (x, y) pixels.
        shape_level0: (height, width) of the slide.
        source: what the error calls them.

    Raises:
        ValueError: they lie wholly outside.
    """
    height, width = shape_level0
    if shapely.intersection(outlines, shapely.box(0, 0, width, height)).area == 0:
        left, top, right, bottom = (f"{side:g}" for side in shapely.bounds(outlines))
        raise ValueError(
            f"regions={source} span x {left}..{right}, y {top}..{bottom}, outside of the slide of "
            f"{width} x {height} (width x height); give those of this slide, in level-0 pixels"
        )


def to_working(outlines: shapely.Geometry, level0_scale: float) -> shapely.Geometry:
    """Return outlines in working-resolution (x, y) pixels.

    Args:
        outlines: in level-0 (x, y) pixels.
        level0_scale: level-0 pixels to a working pixel.
    """
    return shapely.transform(outlines, lambda corners: corners / level0_scale)


def _read_boxes(text: str) -> list[shapely.Geometry]:
    """Return the polygons of boxes written as text."""
    polygons: list[shapely.Geometry] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        try:
            left, top, width, height = (float(number) for number in part.split(","))
        except ValueError as error:
            raise ValueError(
                f"regions={part} is neither a box nor a file: {BOX_FORM}; files end in {', '.join(SUFFIXES)}"
            ) from error
        if not (width > 0 and height > 0 and np.isfinite([left, top, width, height]).all()):
            raise ValueError(f"regions={part} has no area: width and height must be above 0; {BOX_FORM}")
        polygons.append(shapely.box(left, top, left + width, top + height))
    return polygons


def _read_file(path: Path) -> list[shapely.Geometry]:
    """Return the polygons of a GeoJSON file."""
    if not path.is_file():
        raise FileNotFoundError(f"regions={path} does not exist; give a GeoJSON file, or boxes: {BOX_FORM}")
    data = path.read_bytes()
    try:
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        content = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"regions={path} cannot be read as JSON: {error}; {REMEDY}") from error
    try:
        return [_as_polygon(geometry) for geometry in _find_geometries(content)]
    except ValueError as error:
        raise ValueError(f"regions={path}: {error}; {REMEDY}") from error


def _find_geometries(content: Any) -> Iterator[dict[str, Any]]:
    """Yield the geometries with coordinates, in whatever they are wrapped; features without one are passed over."""
    if content is None:
        return
    if isinstance(content, list):
        for part in content:
            yield from _find_geometries(part)
        return
    kind = content.get("type") if isinstance(content, dict) else None
    inside = {"FeatureCollection": "features", "Feature": "geometry", "GeometryCollection": "geometries"}
    if kind in inside:
        yield from _find_geometries(content.get(inside[kind]))
    elif kind in POLYGONS:
        yield content
    elif kind in OTHER_GEOMETRIES:
        raise ValueError(f"a {kind} encloses no area, {' and '.join(POLYGONS)} do")
    else:
        raise ValueError(f"{str(kind or content)[:40]!r} is no type of GeoJSON")


def _as_polygon(geometry: dict[str, Any]) -> shapely.Geometry:
    """Return a GeoJSON polygon, or several, as valid geometry; what has no area becomes empty."""
    try:
        parts = geometry["coordinates"]
        polygons = [parts] if geometry["type"] == "Polygon" else parts
        rings = [[np.array(ring, np.float64)[:, :2] for ring in polygon] for polygon in polygons]
        if not all(np.isfinite(ring).all() for polygon in rings for ring in polygon):
            raise ValueError("not finite")
        shapes = [shapely.Polygon(polygon[0], polygon[1:]) for polygon in rings if polygon]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"a {geometry['type']} has broken coordinates ({error})") from error
    valid = [shapely.make_valid(shape, method="structure", keep_collapsed=False) for shape in shapes]
    return shapely.union_all(valid)
