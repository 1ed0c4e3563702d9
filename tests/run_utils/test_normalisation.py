"""Images and slides brought to one stain: what is written, what the pixels are, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from config.schema import NormalizeSettings
from dataloader.slides import open_slide
from dataloader.stain import NORMALIZERS, PUBLISHED_TARGET, StainStatistics, make_normalizer
from run_utils.inputs import is_slide
from run_utils.normalisation import TARGET, normalize_all
from run_utils.normalisation_record import RECORD
from run_utils.outputs.pyramid import TILE
from tests.slide_files import MPP, damage_tile, write_pyramid
from tests.stained import STAINS, degrees_between, stain_image

OTHER_STAINS = STAINS[:, ::-1] * 0.25 + STAINS * 0.75
"""Both nearer to their mean: as a scanner of duller colours would show them."""
OTHER_STAINS = OTHER_STAINS / np.linalg.norm(OTHER_STAINS, axis=0)
JPEG = 6  # grey levels that JPEG of quality 100 may change in noise
GLASS = 245


def save_image(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_slide(path: Path, pixels: np.ndarray) -> Path:
    """Write a tiled pyramid, which is what makes a small file a slide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(path, pixels)
    return path


def run(source: Path, output: Path, **changes: object) -> int:
    return normalize_all(NormalizeSettings(input=str(source), output=str(output), **changes))


def read(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read((0, 0, *slide.shape_level0))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("[!.]*")}


@pytest.mark.parametrize("method", NORMALIZERS)
def test_an_image_becomes_what_the_method_makes_of_it_whole(method: str, tmp_path: Path) -> None:
    pixels = stain_image(96, 130)
    assert run(save_image(tmp_path / "a.png", pixels), tmp_path / "out", method=method) == 0
    normalizer = make_normalizer(method)
    source = normalizer.estimate(pixels)
    assert np.array_equal(read(tmp_path / "out" / "a.png"), normalizer.transform(pixels, source))
    assert names(tmp_path / "out") == {"a.png", "a.before_after.png", "a.stain.json", RECORD, TARGET}
    assert StainStatistics.load(tmp_path / "out" / "a.stain.json") == source
    assert StainStatistics.load(tmp_path / "out" / TARGET) == normalizer.target


def test_a_slide_becomes_a_pyramid_of_its_own_size_and_resolution(tmp_path: Path) -> None:
    pixels = stain_image(TILE + 90, 2 * TILE + 37)
    assert run(save_slide(tmp_path / "s.tif", pixels), tmp_path / "out", quality=100) == 0
    with open_slide(tmp_path / "out" / "s.tif") as slide:
        assert is_slide(slide)
        assert slide.shape_level0 == pixels.shape[:2]
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        assert slide.mpp == pytest.approx(MPP)
    with tifffile.TiffFile(tmp_path / "out" / "s.tif") as file:
        assert file.is_ome and file.pages[0].is_tiled
    assert names(tmp_path / "out") == {"s.tif", "s.before_after.png", "s.stain.json", RECORD, TARGET}


def test_a_resolution_that_the_file_lacks_can_be_given_and_is_kept(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        for step in (1, 2):
            level = stain_image(300 // step, 400 // step)
            file.write(level, photometric="rgb", tile=(64, 64), subfiletype=step - 1, metadata=None)
    for mpp, expected in ((0.0, None), (0.5, 0.5)):
        assert run(tmp_path / "s.tif", tmp_path / "out", mpp=mpp, overwrite=True) == 0
        with open_slide(tmp_path / "out" / "s.tif") as slide:
            assert slide.mpp == (expected and pytest.approx(expected))


def test_tiles_of_a_slide_are_the_whole_normalised_and_fitted_once(tmp_path: Path) -> None:
    """Left glass, right tissue: a fit of each tile by itself would differ."""
    pixels = stain_image(TILE + 90, TILE + 37)
    pixels[:, : TILE // 2] = GLASS
    assert run(save_slide(tmp_path / "s.tif", pixels), tmp_path / "out", quality=100) == 0
    normalizer = make_normalizer("macenko")
    expected = normalizer.transform(pixels, normalizer.estimate(pixels)).astype(int)
    difference = np.abs(read(tmp_path / "out" / "s.tif") - expected)
    assert difference.max() <= JPEG
    assert not difference[:, : TILE // 2 - 16].any()  # glass keeps its colour


@pytest.mark.parametrize("method", NORMALIZERS)
@pytest.mark.parametrize("save", [save_image, save_slide])
def test_the_result_fitted_again_has_the_targets_stain(save, method: str, tmp_path: Path) -> None:
    target = save_image(tmp_path / "target.png", stain_image(200, 240, stains=OTHER_STAINS, seed=1))
    source = save(tmp_path / "in" / "a.tif", stain_image(200, 240))
    assert run(source, tmp_path / "out", method=method, target=str(target), quality=100) == 0
    wanted = StainStatistics.load(tmp_path / "out" / TARGET)
    (result,) = (path for path in (tmp_path / "out").glob("a.*") if path.name in ("a.png", "a.tif"))
    fitted = make_normalizer(method).estimate(read(result))
    if method == "reinhard":
        assert fitted.lab_mean == pytest.approx(wanted.lab_mean, abs=1.5)
        assert fitted.lab_std == pytest.approx(wanted.lab_std, rel=0.15)
    else:
        assert degrees_between(np.array(fitted.stain_matrix), np.array(wanted.stain_matrix)).max() < 3
        assert fitted.max_concentrations == pytest.approx(wanted.max_concentrations, rel=0.1)


@pytest.mark.parametrize("save", [save_image, save_slide])
@pytest.mark.parametrize("level", [255, GLASS])
def test_a_blank_image_comes_out_unchanged_and_is_no_failure(
    save, level: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.full((80, 120, 3), level, np.uint8)
    source = save(tmp_path / "in" / "blank.tif", pixels)
    assert run(source, tmp_path / "out") == 0
    assert "blank: done: too little stain" in capsys.readouterr().out
    (result,) = (path for path in (tmp_path / "out").glob("blank.*") if path.stem == "blank")
    assert np.array_equal(read(result), pixels)
    assert StainStatistics.load(tmp_path / "out" / "blank.stain.json").is_identity


def test_the_statistics_of_one_image_are_the_target_of_another(tmp_path: Path) -> None:
    first = save_image(tmp_path / "first.png", stain_image(stains=OTHER_STAINS))
    second = save_image(tmp_path / "second.png", stain_image(seed=2))
    assert run(first, tmp_path / "out1") == 0
    assert run(second, tmp_path / "by_json", target=str(tmp_path / "out1" / "first.stain.json")) == 0
    assert run(second, tmp_path / "by_image", target=str(first)) == 0
    assert np.array_equal(
        read(tmp_path / "by_json" / "second.png"), read(tmp_path / "by_image" / "second.png")
    )
    assert not np.array_equal(read(tmp_path / "by_json" / "second.png"), read(second))
    assert StainStatistics.load(tmp_path / "by_json" / TARGET) != PUBLISHED_TARGET


def test_before_and_after_stand_side_by_side_under_headings(tmp_path: Path) -> None:
    pixels = stain_image(300, 400)
    assert run(save_image(tmp_path / "a.png", pixels), tmp_path / "out") == 0
    sheet, result = read(tmp_path / "out" / "a.before_after.png"), read(tmp_path / "out" / "a.png")
    gap, line = 8, 24
    assert sheet.shape[1] == 3 * gap + 2 * 400
    assert np.array_equal(sheet[line : line + 300, gap : gap + 400], pixels)
    assert np.array_equal(sheet[line : line + 300, 2 * gap + 400 : 2 * gap + 800], result)
    for column in (slice(0, 300), slice(gap + 400, 800)):
        assert np.ptp(sheet[:line, column]) > 100  # a heading


def test_a_slides_picture_is_of_the_whole_at_low_power(tmp_path: Path) -> None:
    pixels = stain_image(1100, 1600)
    assert run(save_slide(tmp_path / "s.tif", pixels), tmp_path / "out") == 0
    sheet = read(tmp_path / "out" / "s.before_after.png")
    assert sheet.shape[0] * sheet.shape[1] < 2.2 * 2**20


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (13, 5)])
def test_any_shape_of_image_is_taken(shape: tuple[int, int], tmp_path: Path) -> None:
    pixels = stain_image(*shape)
    assert run(save_image(tmp_path / "a.png", pixels), tmp_path / "out") == 0
    assert np.array_equal(read(tmp_path / "out" / "a.png"), pixels)


def test_a_damaged_file_is_named_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    save_image(folder / "good.png", stain_image())
    damage_tile(save_slide(folder / "torn.tif", stain_image(300, 452)), 5)
    (folder / "text.svs").write_text("not a slide")
    content = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "torn.tif").write_bytes((folder / "torn.tif").read_bytes()[:9000])
    assert run(folder, tmp_path / "out") == 1
    printed = capsys.readouterr().out
    for name in ("cut", "text", "torn"):
        assert f"{name}: failed" in printed
    assert names(tmp_path / "out") == {"good.png", "good.before_after.png", "good.stain.json", RECORD, TARGET}


def test_what_is_there_is_skipped_unless_it_is_to_be_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_image(tmp_path / "a.png", stain_image())
    assert run(source, tmp_path / "out") == 0
    expected = (tmp_path / "out" / "a.png").read_bytes()
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    assert run(source, tmp_path / "out") == 0
    assert "a: skipped: its result is there; overwrite=true" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine"
    assert run(source, tmp_path / "out", overwrite=True) == 0
    assert (tmp_path / "out" / "a.png").read_bytes() == expected


def test_a_run_that_is_stopped_leaves_nothing_that_looks_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    source = save_slide(tmp_path / "s.tif", stain_image(300, 452))
    monkeypatch.setattr("run_utils.normalisation.write_sheet", stop)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out")
    assert names(tmp_path / "out") == {RECORD, TARGET}
    monkeypatch.undo()
    assert run(source, tmp_path / "out") == 0
    assert "s.tif" in names(tmp_path / "out")


def test_results_of_another_stain_are_not_mixed_with_those_that_are_there(tmp_path: Path) -> None:
    source = save_image(tmp_path / "a.png", stain_image())
    assert run(source, tmp_path / "out") == 0
    with pytest.raises(ValueError, match="holds results of another method and target; .* overwrite=true"):
        run(source, tmp_path / "out", method="reinhard")
    assert run(source, tmp_path / "out", method="reinhard", overwrite=True) == 0
    assert StainStatistics.load(tmp_path / "out" / "a.stain.json").method == "reinhard"


def test_results_that_another_method_left_are_made_anew_once_one_was_overwritten(
    tmp_path: Path, capsys
) -> None:
    for seed, name in enumerate("abc"):
        save_image(tmp_path / "in" / f"{name}.png", stain_image(seed=seed))
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert run(tmp_path / "in" / "b.png", tmp_path / "out", method="reinhard", overwrite=True) == 0
    capsys.readouterr()
    assert run(tmp_path / "in", tmp_path / "out", method="reinhard") == 0
    printed = capsys.readouterr().out
    assert "b: skipped: its result is there" in printed
    assert "a: skipped" not in printed and "c: skipped" not in printed
    assert run(tmp_path / "in", tmp_path / "alone", method="reinhard") == 0
    for name in "abc":
        assert np.array_equal(
            read(tmp_path / "out" / f"{name}.png"), read(tmp_path / "alone" / f"{name}.png")
        )
        assert StainStatistics.load(tmp_path / "out" / f"{name}.stain.json").method == "reinhard"


def test_a_file_that_nobody_wrote_down_is_left_alone_and_pointed_out(tmp_path: Path, capsys) -> None:
    source = save_image(tmp_path / "a.png", stain_image())
    mine = save_image(tmp_path / "out" / "a.png", stain_image(seed=5)).read_bytes()
    assert run(source, tmp_path / "out") == 0
    assert "normalize.json does not say how it was made; overwrite=true" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.png").read_bytes() == mine


@pytest.mark.parametrize("content", ["no", "[]", '{"results": 3}'])
def test_a_record_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RECORD).write_text(content)
    with pytest.raises(ValueError, match=r"normalize\.json is not the record of normalize_stain"):
        run(save_image(tmp_path / "a.png", stain_image()), tmp_path / "out")


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_written_onto(overwrite: bool, tmp_path: Path) -> None:
    source = save_image(tmp_path / "in" / "a.png", stain_image())
    content = source.read_bytes()
    with pytest.raises(ValueError, match="is the input folder"):
        run(tmp_path / "in", tmp_path / "in" / ".." / "in", overwrite=overwrite)
    with pytest.raises(ValueError, match="would be replaced by its own result"):
        run(source, tmp_path / "in", overwrite=overwrite)
    target = save_image(tmp_path / "out" / "a.png", stain_image(seed=3))
    with pytest.raises(ValueError, match="would be replaced"):
        run(source, tmp_path / "out", target=str(target), overwrite=overwrite)
    assert names(tmp_path / "in") == {"a.png"} and source.read_bytes() == content


def test_a_target_without_stain_is_refused(tmp_path: Path) -> None:
    source = save_image(tmp_path / "a.png", stain_image())
    StainStatistics("identity").save(tmp_path / "identity.json")
    with pytest.raises(ValueError, match=r"identity\.json holds no stain"):
        run(source, tmp_path / "out", target=str(tmp_path / "identity.json"))
    blank = save_image(tmp_path / "blank.png", np.full((64, 64, 3), 255, np.uint8))
    with pytest.raises(ValueError, match="too little stain to be a target"):
        run(source, tmp_path / "out", target=str(blank))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"method": "none"}, "macenko, vahadane"), ({"quality": 0}, "1..100"), ({"mpp": -1.0}, "0 or more")],
)
def test_settings_that_cannot_be_right_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NormalizeSettings(input="a", output="b", **changes)
