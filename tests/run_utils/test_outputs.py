import itertools

import numpy as np
import pytest
from skimage.color import rgb2lab

from run_utils import outputs
from run_utils.outputs import WRITERS, default_colours, picture, write_outputs
from tests.results import ellipses, make_result


@pytest.fixture
def result():
    return make_result(ellipses(), name="tile")


def test_a_name_no_writer_has_is_refused_before_anything_is_written(result, tmp_path):
    with pytest.raises(ValueError, match=f"unknown tsv; choose from {', '.join(WRITERS)}$"):
        write_outputs(result, tmp_path / "out", ["json", "tsv"])
    assert not (tmp_path / "out").exists()


def test_each_format_has_its_folder_and_no_temporary_stays(result, tmp_path):
    paths = write_outputs(result, tmp_path, list(WRITERS))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(paths.values())
    assert paths["picture"] == tmp_path / "picture" / "tile.png"
    assert paths["overlay"] == tmp_path / "overlay" / "tile.ome.tif"


def test_options_reach_the_formats_that_take_them(result, tmp_path):
    paths = write_outputs(result, tmp_path, ["json", "picture"], dots=True, legend=False)
    picture.write(result, tmp_path / "asked.png", dots=True, legend=False)
    assert paths["picture"].read_bytes() == (tmp_path / "asked.png").read_bytes()
    picture.write(result, tmp_path / "usual.png")
    assert paths["picture"].read_bytes() != (tmp_path / "usual.png").read_bytes()


def test_an_option_no_writer_takes_is_refused(result, tmp_path):
    with pytest.raises(ValueError, match="dot.*writers take only dots, legend"):
        write_outputs(result, tmp_path, ["json"], dot=True)


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(result, tmp_path, monkeypatch):
    path = write_outputs(result, tmp_path, ["json"])["json"]
    before = path.read_bytes()

    def fail(result, path):
        path.write_text("half")
        raise OSError("the disk is full")

    monkeypatch.setitem(outputs.WRITERS, "json", WRITERS["json"]._replace(write=fail))
    with pytest.raises(OSError, match="disk is full"):
        write_outputs(result, tmp_path, ["json"])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB
COLOUR_BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
PINK_AND_PURPLE = [(230, 170, 205), (150, 110, 170), (90, 60, 130)]  # eosin, haematoxylin, a dense nucleus


@pytest.mark.parametrize("sight", COLOUR_BLINDNESS)
def test_default_colours_are_told_apart_on_tissue(sight):
    def seen(colours):
        rgb = np.array(colours) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        linear = np.clip(linear @ np.array(COLOUR_BLINDNESS[sight]).T, 0, 1)
        return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))

    types = seen(default_colours(6)[1:])
    tissue = seen(PINK_AND_PURPLE)
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(types, 2)]
    from_tissue = np.linalg.norm(types[:, None] - tissue[None], axis=-1)
    assert min(apart) > 20  # CIE 1976; 2.3 is just noticeable
    assert from_tissue.min() > 20


def test_there_is_a_colour_for_every_type_however_many():
    assert [len(default_colours(count)) for count in (0, 1, 2, 7, 40)] == [0, 1, 2, 7, 40]
    assert len(set(default_colours(10))) == 10
