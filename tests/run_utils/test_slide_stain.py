"""Slides normalised on their way to the network: as if the whole slide had been, recorded, and resumable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataloader.stain import MacenkoNormalizer, StainStatistics, make_normalizer
from run_utils.inference.batch_run import infer_all
from run_utils.inference.journal import Journal
from run_utils.outputs import output_path
from tests.drawing import draw_pairs
from tests.run_utils.test_slide_run import NAME, contents, manifest, settings, write_slide
from tests.stained import stain_image

SIDE = 500


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Synthetic H&E with darker nuclei."""
    label_map = draw_pairs((SIDE, SIDE))
    return np.where(label_map[..., None] > 0, (95, 45, 130), stain_image(SIDE, SIDE)).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / f"{NAME}.tif"
    write_slide(path, image)
    return path


def nuclei_of(output: Path) -> np.ndarray:
    return np.load(output_path(output, NAME, "npy"))


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_nuclei_are_those_of_the_slide_normalised_as_a_whole(
    method: str, slide: Path, image: np.ndarray, checkpoint: Path, tmp_path: Path
) -> None:
    normalizer = make_normalizer(method)
    normalised = tmp_path / f"{NAME}.tif"
    write_slide(normalised, normalizer.transform(image, normalizer.estimate(image)))
    assert infer_all(settings(normalised, checkpoint, tmp_path / "before", stain="none")) == 0
    assert infer_all(settings(slide, checkpoint, tmp_path / "within", stain=method)) == 0
    assert infer_all(settings(slide, checkpoint, tmp_path / "plain")) == 0
    assert np.array_equal(nuclei_of(tmp_path / "within"), nuclei_of(tmp_path / "before"))
    assert not np.array_equal(nuclei_of(tmp_path / "within"), nuclei_of(tmp_path / "plain"))


def test_the_record_says_how_each_slide_was_normalised(
    slide: Path, image: np.ndarray, checkpoint: Path, tmp_path: Path
) -> None:
    assert infer_all(settings(slide, checkpoint, tmp_path / "out", stain="macenko")) == 0
    stain = manifest(tmp_path / "out")[NAME]["stain"]
    assert stain["method"] == "macenko"
    assert StainStatistics.from_dict(stain["target"]) == MacenkoNormalizer().target
    assert StainStatistics.from_dict(stain["source"]) == MacenkoNormalizer().estimate(image)


def test_a_normalised_slide_goes_on_after_what_it_has(
    slide: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    chosen = settings(slide, checkpoint, tmp_path / "out", stain="macenko")
    assert infer_all(settings(slide, checkpoint, tmp_path / "unbroken", stain="macenko")) == 0
    real, count = Journal.append, 0

    def append(journal: Journal, owned: object) -> None:
        nonlocal count
        count += 1
        if count > 4:
            raise OSError(28, "No space left on device")
        real(journal, owned)

    monkeypatch.setattr(Journal, "append", append)
    assert infer_all(chosen) == 1
    monkeypatch.undo()
    with caplog.at_level("INFO"):
        assert infer_all(chosen) == 0
    assert "slide: goes on after 4 of" in caplog.text
    assert contents(tmp_path / "out") == contents(tmp_path / "unbroken")


def test_results_of_another_target_are_not_mixed(slide: Path, checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    make_normalizer("macenko").estimate(stain_image(200, 200)).save(target)
    chosen = settings(slide, checkpoint, tmp_path / "out", stain=str(target))
    assert infer_all(chosen) == 0
    make_normalizer("macenko").estimate(stain_image(200, 200, seed=1)).save(target)
    with pytest.raises(ValueError, match="holds results of other settings.*stain_sha256"):
        infer_all(chosen)


def test_a_slide_without_stain_is_predicted_as_it_is(checkpoint: Path, tmp_path: Path, caplog) -> None:
    path = tmp_path / f"{NAME}.tif"
    write_slide(path, np.full((300, 300, 3), 244, np.uint8))
    assert infer_all(settings(path, checkpoint, tmp_path / "out", stain="macenko")) == 0
    assert infer_all(settings(path, checkpoint, tmp_path / "plain")) == 0
    assert "shows too little stain to normalise: it is predicted as it is" in caplog.text
    assert np.array_equal(nuclei_of(tmp_path / "out"), nuclei_of(tmp_path / "plain"))
    assert manifest(tmp_path / "out")[NAME]["stain"]["source"]["method"] == "identity"
