"""What every stain normaliser must do, whichever it is."""

import logging

import numpy as np
import pytest
import torch

from dataloader.stain import NORMALIZERS, MacenkoNormalizer, StainStatistics
from dataloader.stain.apply import recolour_tensor
from dataloader.stain.density import mixing_matrices
from dataloader.stain.mixing import DensityMixing
from dataloader.stain.reinhard import LabShift
from tests.stained import stain_image

pytestmark = pytest.mark.parametrize("method", list(NORMALIZERS))

BLANK = {
    "all white": np.full((64, 64, 3), 255, np.uint8),
    "glass": np.full((64, 64, 3), (240, 243, 241), np.uint8),
    "all black": np.zeros((64, 64, 3), np.uint8),
    "one colour": np.full((64, 64, 3), (150, 80, 160), np.uint8),
    "grey as RGB": np.random.default_rng(0).integers(0, 256, (64, 64, 1), np.uint8).repeat(3, 2),
    "one pixel": np.array([[[120, 60, 150]]], np.uint8),
}


def make(method):
    return NORMALIZERS[method]()


def difference(first, second):
    return int(np.abs(np.asarray(first).astype(int) - np.asarray(second).astype(int)).max())


def channels_first(image):
    return torch.from_numpy(image).movedim(-1, -3).contiguous()


def recolouring(normalizer, sources):
    if normalizer.target.lab_mean is not None:
        return LabShift(sources, normalizer.target)
    matrices = mixing_matrices(sources, normalizer.target)
    table = MacenkoNormalizer().variant.table()
    return DensityMixing(matrices, table, 255.0, fades=True)


def test_an_image_really_gets_another_colour(method):
    image = stain_image()
    assert difference(make(method).fit(image).transform(image), image) > 20


def test_the_input_is_left_as_it_was(method):
    image = stain_image()
    before = image.copy()
    make(method).fit(image).transform(image)
    assert np.array_equal(image, before)


def test_fitting_again_on_the_result_gives_the_targets_statistics(method):
    images = [stain_image(seed=seed, glass=0) for seed in (1, 2)]
    normalizer = NORMALIZERS[method](images[1])
    image = stain_image(seed=1, glass=0, stains=np.array([[0.5, 0.3], [0.8, 0.9], [0.3, 0.2]]))
    again = normalizer.estimate(normalizer.fit(image).transform(image))
    for name in ("stain_matrix", "max_concentrations", "lab_mean", "lab_std"):
        value, wanted = getattr(again, name), getattr(normalizer.target, name)
        if wanted is not None:
            tolerance = 1.5 if name.startswith("lab") else 0.1
            np.testing.assert_allclose(value, wanted, atol=tolerance)


def test_an_image_normalised_to_itself_keeps_stained_colours(method):
    if method == "reinhard":
        image = stain_image(glass=0)
        assert difference(NORMALIZERS[method](image).fit(image).transform(image), image) <= 1
        return
    generator = np.random.default_rng(0)  # exactly two stains: what lies beside their plane is lost
    density = generator.gamma(2, 0.5, (4000, 2)) @ np.array([[0.6, 0.7, 0.38], [0.2, 0.85, 0.48]])
    image = np.clip(np.rint(255 * np.exp(-density)), 1, 255).astype(np.uint8).reshape(50, 80, 3)
    normalizer = NORMALIZERS[method](image).fit(image)
    unequal = np.abs(normalizer.transform(image).astype(int) - image)
    assert np.percentile(unequal, 95) <= 4


def test_torch_and_numpy_agree_in_any_memory_format(method):
    image = stain_image()
    normalizer = make(method).fit(image)
    wanted = normalizer.transform(image)
    single = channels_first(image)
    batch = torch.stack([single, single])
    for tensor in (single, batch, batch.contiguous(memory_format=torch.channels_last)):
        result = normalizer.transform(tensor)
        assert result.dtype == torch.uint8
        assert result.shape == tensor.shape
        assert result.stride() == tensor.stride()
        assert np.array_equal(result.reshape(-1, *single.shape)[0].movedim(0, -1).numpy(), wanted)


def test_torchs_own_arithmetic_agrees_to_one_grey_level(method):
    images = np.stack([stain_image(seed=seed) for seed in range(3)])
    normalizer = make(method)
    sources = [normalizer.estimate(image) for image in images[:2]] + [StainStatistics("identity")]
    result = recolour_tensor(channels_first(images), recolouring(normalizer, sources))
    assert difference(result.movedim(1, -1), normalizer.transform(images, sources)) <= 1


@pytest.mark.gpu
def test_cupy_and_torch_on_a_gpu_agree_with_the_cpu_to_one_grey_level(method):
    cupy = pytest.importorskip("cupy")
    images = np.stack([stain_image(seed=seed) for seed in range(3)])
    normalizer = make(method)
    sources = [normalizer.estimate(cupy.asarray(image)) for image in images[:2]]
    for source, image in zip(sources, images, strict=False):
        expected = normalizer.estimate(image)
        value, wanted = (np.asarray(part.stain_matrix or part.lab_mean) for part in (source, expected))
        np.testing.assert_allclose(value, wanted, atol=2e-3)
    sources.append(StainStatistics("identity"))
    wanted = normalizer.transform(images, sources)
    assert difference(normalizer.transform(cupy.asarray(images), sources).get(), wanted) <= 1
    tensor = channels_first(images).cuda()
    for batch in (tensor, tensor.contiguous(memory_format=torch.channels_last)):
        result = normalizer.transform(batch, sources)
        assert result.stride() == batch.stride()
        assert difference(result.movedim(1, -1).cpu(), wanted) <= 1
    by_torch = recolour_tensor(tensor, recolouring(normalizer, sources))
    assert difference(by_torch.movedim(1, -1).cpu(), wanted) <= 1


@pytest.mark.parametrize("name", BLANK)
def test_too_little_stain_gives_the_identity_and_a_warning_and_comes_back_unchanged(method, name, caplog):
    with caplog.at_level(logging.WARNING):
        normalizer = make(method).fit(BLANK[name])
    assert normalizer.source.is_identity
    assert "colours stay as they are" in caplog.text
    assert np.array_equal(normalizer.transform(BLANK[name]), BLANK[name])


@pytest.mark.parametrize("name", BLANK)
def test_any_valid_image_is_transformed_by_the_statistics_of_another(method, name):
    result = make(method).fit(stain_image()).transform(BLANK[name])
    assert result.shape == BLANK[name].shape
    assert result.dtype == np.uint8


@pytest.mark.parametrize("name", ["all white", "glass"])
def test_background_stays_under_the_statistics_of_its_slide(method, name):
    assert np.array_equal(make(method).fit(stain_image()).transform(BLANK[name]), BLANK[name])


def test_a_batch_with_one_blank_patch_has_that_patch_unchanged_and_the_others_normalised(method):
    images = np.stack([stain_image(64, 64, seed=1), BLANK["glass"], stain_image(64, 64, seed=2)])
    normalizer = make(method)
    result = normalizer.transform(images, [normalizer.estimate(image) for image in images])
    assert np.array_equal(result[1], images[1])
    for number in (0, 2):
        alone = make(method).fit(images[number]).transform(images[number])
        assert np.array_equal(result[number], alone)


def test_the_result_does_not_depend_on_the_window(method):
    image = stain_image(400, 300)
    normalizer = make(method).fit(image)
    whole = normalizer.transform(image)
    assert difference(normalizer.transform(image[17:230, 5:7]), whole[17:230, 5:7]) <= 1


def test_tissue_pixels_give_the_fit_of_the_image(method):
    image = stain_image()
    normalizer = make(method)
    assert normalizer.estimate(image) == normalizer.estimate(image.reshape(-1, 3))
    assert normalizer.estimate(image) == normalizer.estimate(channels_first(image))
    assert normalizer.estimate(image) == normalizer.estimate(torch.from_numpy(image.reshape(-1, 3)))


def test_a_fit_on_a_sample_is_near_the_fit_on_all_and_the_same_again(method):
    image = stain_image(400, 500)
    sampled = NORMALIZERS[method](max_pixels=20_000)
    full = NORMALIZERS[method](max_pixels=None).fit(image)
    assert sampled.estimate(image) == sampled.estimate(image)
    assert difference(sampled.fit(image).transform(image), full.transform(image)) <= 12


def test_statistics_survive_json(method, tmp_path):
    normalizer = make(method).fit(stain_image())
    normalizer.source.save(tmp_path / "stain.json")
    assert StainStatistics.load(tmp_path / "stain.json") == normalizer.source
    assert NORMALIZERS[method](tmp_path / "stain.json").target == normalizer.source


def test_floats_are_grey_levels_and_come_back_as_uint8(method):
    image = stain_image()
    normalizer = make(method).fit(image.astype(np.float32))
    assert normalizer.source == normalizer.estimate(image)
    assert np.array_equal(normalizer.transform(np.minimum(image + 0.3, 255)), normalizer.transform(image))
    tensor = channels_first(image)
    assert torch.equal(normalizer.transform(tensor.float()), normalizer.transform(tensor))


def test_an_empty_batch_gives_an_empty_batch(method):
    normalizer = make(method).fit(stain_image())
    assert normalizer.transform(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 8, 8, 3)
    assert normalizer.transform(torch.zeros((0, 3, 8, 8))).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.full((32, 32, 3), np.nan, np.float32), "mend NaN"),
        (np.full((32, 32, 3), 0.5, np.float32), "multiply by 255"),
        (np.full((32, 32, 3), 300.0), "0..255"),
        (np.full((32, 32, 3), -1), "0..255"),
        (torch.full((3, 32, 32), torch.nan), "mend NaN"),
        (torch.full((3, 32, 32), 0.5), "multiply by 255"),
        (np.zeros((3, 32, 32), np.uint8), "RGB"),
        (torch.zeros((32, 32, 3), dtype=torch.uint8), "RGB"),
        (np.zeros((32, 32, 4), np.uint8), "RGB"),
        ([[0, 0, 0]], "unknown"),
    ],
)
def test_images_that_are_none_are_refused_in_one_line(method, images, message):
    normalizer = make(method).fit(stain_image())
    for call in (normalizer.fit, normalizer.transform):
        with pytest.raises(ValueError, match=message) as caught:
            call(images)
        assert "\n" not in str(caught.value)


def test_transforming_before_a_fit_or_with_the_wrong_number_of_sources_is_refused(method):
    image = stain_image()
    normalizer = make(method)
    with pytest.raises(ValueError, match="call fit first"):
        normalizer.transform(image)
    source = normalizer.estimate(image)
    with pytest.raises(ValueError, match="2 sources do not match 3 images"):
        normalizer.transform(np.stack([image] * 3), [source, source])


def test_a_target_of_the_other_kind_or_without_tissue_is_refused(method):
    other = "macenko" if method == "reinhard" else "reinhard"
    with pytest.raises(ValueError, match="fit"):
        NORMALIZERS[method](make(other).estimate(stain_image()))
    with pytest.raises(ValueError, match="more tissue"):
        NORMALIZERS[method](BLANK["all white"])
