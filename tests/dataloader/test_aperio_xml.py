"""Aperio's XML gives its outlines, and none of what XML can do beside."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from dataloader.annotations.aperio_xml import read_aperio_xml
from tests.published.aperio import write_aperio_xml

TRIANGLE = np.array([[1.5, 2.25], [9, 2], [4, 8.125]])

BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<Annotations><Annotation>&c;</Annotation></Annotations>"""
OUTSIDE_ENTITY = """<?xml version="1.0"?>
<!DOCTYPE a [<!ENTITY a SYSTEM "{secret}">]>
<Annotations><Annotation><Attributes><Attribute Name="x"/></Attributes>&a;</Annotation></Annotations>"""
OUTSIDE_DTD = '<?xml version="1.0"?><!DOCTYPE Annotations SYSTEM "{secret}"><Annotations/>'
PARAMETER_ENTITY = '<!DOCTYPE a [<!ENTITY % a SYSTEM "{secret}"> %a;]><Annotations/>'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "TCGA-1.xml"


def test_outlines_come_in_the_order_of_the_file(path: Path) -> None:
    write_aperio_xml(path, {"Epithelial": [TRIANGLE, TRIANGLE + 1], " Neutrophil ": [TRIANGLE + 2]})
    regions = read_aperio_xml(path)
    assert [region.type_name for region in regions] == ["Epithelial", "Epithelial", "Neutrophil"]
    assert [region.name for region in regions] == [
        "annotation 1 region 1",
        "annotation 1 region 2",
        "annotation 2 region 1",
    ]
    for offset, region in enumerate(regions):
        np.testing.assert_array_equal(region.ring, TRIANGLE + offset)


def test_a_file_without_regions_gives_none(path: Path) -> None:
    path.write_text("<Annotations><Annotation><Regions/></Annotation></Annotations>")
    assert read_aperio_xml(path) == []


def test_clicks_rulers_and_negative_regions_are_counted_and_left_out(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_aperio_xml(path, {"": [TRIANGLE[:1], TRIANGLE[:2], TRIANGLE[:0], TRIANGLE, TRIANGLE]})
    text = path.read_text()
    last = text.rindex('NegativeROA="0"')
    path.write_text(text[:last] + text[last:].replace('"0"', '"1"', 1))
    with caplog.at_level(logging.WARNING):
        assert [region.name for region in read_aperio_xml(path)] == ["annotation 1 region 4"]
    assert "TCGA-1.xml: 4 regions enclose no nucleus" in caplog.text


@pytest.mark.parametrize("text", [BOMB, OUTSIDE_ENTITY, OUTSIDE_DTD, PARAMETER_ENTITY])
def test_a_document_type_is_refused_in_one_line(path: Path, text: str) -> None:
    secret = path.with_name("secret")
    secret.write_text("secret")
    path.write_text(text.replace("{secret}", str(secret)))
    with pytest.raises(
        ValueError, match=r"TCGA-1.xml: has a document type .* remove its <!DOCTYPE>"
    ) as caught:
        read_aperio_xml(path)
    assert "\n" not in str(caught.value)
    assert "ha" * 8 not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole XML file"),
        (b"<Annotations><Annotation>", "not a whole XML file"),
        (b"\x00\x01\x02", "not a whole XML file"),
        (b'<?xml version="1.0" encoding="no-such"?><Annotations/>', "not a whole XML file"),
        (b"<Annotations>&unknown;</Annotations>", "not a whole XML file"),
        (b"<html/>", "its root is <html>"),
    ],
)
def test_another_file_is_refused_by_name(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"TCGA-1.xml: {message}"):
        read_aperio_xml(path)


@pytest.mark.parametrize("vertex", ['<Vertex X="1"/>', '<Vertex X="1" Y="two"/>'])
def test_a_vertex_without_numbers_is_refused_with_its_region(path: Path, vertex: str) -> None:
    path.write_text(
        f"<Annotations><Annotation><Regions><Region><Vertices>{vertex}</Vertices></Region></Regions>"
        "</Annotation></Annotations>"
    )
    with pytest.raises(ValueError, match=r"TCGA-1.xml: annotation 1 region 1: a vertex without numbers"):
        read_aperio_xml(path)
