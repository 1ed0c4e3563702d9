"""What a command is pointed at: lists of slides, local and at addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataloader.address import Address
from run_utils.inputs import find_images


def shown(found: dict[str, Path | Address]) -> dict[str, str]:
    return {name: str(path) for name, path in found.items()}


def test_a_list_names_slides_of_every_place(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\ufeffsub/a.svs\n\n  /data/b.tif \ns3://bucket/c.svs\n")
    assert shown(find_images(str(tmp_path / "list.txt"))) == {
        "a": str(tmp_path / "sub/a.svs"),
        "b": "/data/b.tif",
        "c": "s3://bucket/c.svs",
    }


def test_a_table_may_name_outputs(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('case,name,slide\n1,first,"x, y.svs"\n2,,s3://bucket/c.svs\n')
    assert shown(find_images(tmp_path / "list.csv")) == {
        "first": str(tmp_path / "x, y.svs"),
        "c": "s3://bucket/c.svs",
    }


def test_slides_of_one_stem_are_told_apart_by_their_endings_or_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a/x.svs\nb/x.tif\n")
    assert list(find_images(tmp_path / "list.txt")) == ["x.svs", "x.tif"]
    (tmp_path / "list.txt").write_text("a/x.svs\ns3://b/y.svs\n a/x.svs\ns3://b/y.svs\n")
    assert list(find_images(tmp_path / "list.txt")) == ["x", "y"]  # twice the same is once
    (tmp_path / "list.txt").write_text("a/x.svs\nb/x.svs\n")
    with pytest.raises(ValueError, match=r"list\.txt: x\.svs and another file give one name"):
        find_images(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na.svs\n", r"has columns \['file'\]; one must be called slide"),
        ("slide,name\na.svs,x\nb.svs,x\n", "each name must be there once"),
        ("slide,name\na.svs,../x\n", "without folders"),
        ("slide,name\na.svs,..\n", "without folders"),
        ("name,slide\nx,a.svs\ny\n", "row 2 below the headings names no slide"),
        ("name,path\nx,a.svs\ny, \n", "row 2 below the headings names no path"),
        ("slide\na.svs\n./a.svs\n", "a.svs and another file give one name"),
        ("slide,name\na.svs,b\nb.svs,\n", "has the name that another is given"),
    ],
)
def test_a_table_that_cannot_be_right_says_why(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path / "list.csv")


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_list_that_is_not_there_or_empty_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
        find_images(tmp_path / name)
    (tmp_path / name).write_text("slide\n" if name == "list.csv" else "\n")
    with pytest.raises(FileNotFoundError, match=f"{name} holds no image"):
        find_images(tmp_path / name)


def test_a_folder_or_a_list_at_an_address_gives_addresses() -> None:
    folder = Address("memory://inputs")
    for name in ("a.svs", "b.png", "notes.doc", ".hidden.svs"):
        (folder / name).write(b"-")
    (folder / "list.txt").write(b"a.svs\n/data/b.tif\n")
    assert shown(find_images("memory://inputs")) == {
        "a": "memory://inputs/a.svs",
        "b": "memory://inputs/b.png",
    }
    assert shown(find_images("memory://inputs/list.txt")) == {
        "a": "memory://inputs/a.svs",
        "b": "/data/b.tif",
    }
    assert shown(find_images("s3://bucket/x.svs?versionId=1")) == {"x": "s3://bucket/x.svs"}
    with pytest.raises(FileNotFoundError, match="memory://nothing does not exist"):
        find_images("memory://nothing")
