import numpy as np
import pytest
import torch

from dataloader.stain import MacenkoNormalizer
from dataloader.stain.transforms import (
    ExtractStains,
    ExtractStainsd,
    NormalizeStain,
    NormalizeStaind,
    RandHEDJitter,
    RandHEDJitterd,
)
from tests.stained import STAINS, degrees_between, stain_image


def first(image):
    return np.ascontiguousarray(np.moveaxis(image, -1, 0))


@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
def test_arrays_and_tensors_give_the_same_channels_first(method):
    image = first(stain_image())
    result = NormalizeStain(method)(image)
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert np.array_equal(NormalizeStain(method)(torch.from_numpy(image)).numpy(), result)


def test_normalising_is_what_the_normaliser_does_with_the_images_own_or_a_given_source():
    image, other = stain_image(), stain_image(seed=1)
    normalizer = MacenkoNormalizer().fit(image)
    assert np.array_equal(NormalizeStain()(first(image)), first(normalizer.transform(image)))
    source = normalizer.estimate(other)
    assert np.array_equal(
        NormalizeStain(source=source)(first(image)), first(normalizer.transform(image, source))
    )


def test_a_blank_image_comes_back_unchanged_but_has_no_stains_to_extract():
    blank = np.full((3, 40, 40), 255, np.uint8)
    assert np.array_equal(NormalizeStain()(blank), blank)
    with pytest.raises(ValueError, match="more tissue"):
        ExtractStains()(blank)


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_extracted_stains_are_the_known_ones_haematoxylin_first(method):
    stains = ExtractStains(method)(first(stain_image(200, 200)))
    assert stains.dtype == np.float32
    assert degrees_between(stains, STAINS).max() < 3


def test_jitter_is_seeded_and_happens_as_often_as_asked():
    image = first(stain_image())
    jitter = RandHEDJitter(prob=0.5, scale=0.2, shift=0.2).set_random_state(0)
    results = [jitter(image) for _ in range(40)]
    jitter.set_random_state(0)
    assert all(np.array_equal(result, jitter(image)) for result in results)
    assert 10 < sum(not np.array_equal(result, image) for result in results) < 30
    jitter = RandHEDJitter(prob=1, scale=0.2).set_random_state(1)
    assert not np.array_equal(jitter(image), jitter(image))
    assert RandHEDJitter(prob=0)(image) is image


def test_dictionary_transforms_change_the_named_keys_alone():
    image = first(stain_image())
    data = {"image": image, "other": image, "label": 3}
    normalised = NormalizeStaind("image")(data)
    assert np.array_equal(normalised["image"], NormalizeStain()(image))
    assert normalised["other"] is image
    assert normalised["label"] == 3
    assert data["image"] is image
    assert np.array_equal(ExtractStainsd(["image"])(data)["image"], ExtractStains()(image))


def test_all_keys_of_a_jitter_share_one_draw():
    image = first(stain_image())
    jittered = RandHEDJitterd(("a", "b"), prob=1, scale=0.2).set_random_state(0)({"a": image, "b": image})
    assert np.array_equal(jittered["a"], jittered["b"])
    assert not np.array_equal(jittered["a"], image)


@pytest.mark.parametrize("transform", [NormalizeStaind, ExtractStainsd, RandHEDJitterd])
def test_missing_keys_are_refused_unless_allowed(transform):
    with pytest.raises(KeyError, match="allow_missing_keys"):
        transform(["image"])({"label": 1})
    assert transform(["image"], allow_missing_keys=True)({"label": 1}) == {"label": 1}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: NormalizeStain("none"), "macenko, vahadane, reinhard"),
        (lambda: ExtractStains("reinhard"), "choose macenko or vahadane"),
        (lambda: RandHEDJitter(prob=2), "outside 0..1"),
        (lambda: NormalizeStaind([]), "keys are empty"),
        (lambda: NormalizeStain()(stain_image()), r"\(3, H, W\)"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_transforms_work_inside_monais_compose(tmp_path):
    transforms = pytest.importorskip("monai.transforms", reason="MONAI is a development extra")
    image = stain_image()
    path = tmp_path / "image.png"
    import cv2

    cv2.imwrite(str(path), image[..., ::-1])
    compose = transforms.Compose(
        [
            transforms.LoadImaged("image", reader="PILReader", reverse_indexing=False),
            transforms.EnsureChannelFirstd("image", channel_dim=-1),
            NormalizeStaind("image"),
            RandHEDJitterd("image", prob=1.0).set_random_state(0),
            transforms.ScaleIntensityd("image"),
        ]
    )
    result = compose({"image": str(path)})["image"]
    assert tuple(result.shape) == (3, *image.shape[:2])
    jitter = RandHEDJitter(prob=1.0).set_random_state(0)
    wanted = jitter(NormalizeStain()(first(image))).astype(np.float32)
    np.testing.assert_allclose(result, (wanted - wanted.min()) / np.ptp(wanted), atol=1e-6)
    stains = transforms.Compose([transforms.ToTensor(), ExtractStains()])(first(image))
    np.testing.assert_allclose(stains, ExtractStains()(first(image)))


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["NumPy", "torch"])
def test_floats_become_grey_levels_whether_the_jitter_is_drawn_or_not(convert):
    image = convert(first(stain_image()).astype(np.float32))
    jitter = RandHEDJitter(prob=0.5, scale=0.2).set_random_state(0)
    assert {result.dtype for result in (jitter(image) for _ in range(20))} == {
        convert(first(stain_image())).dtype
    }


def test_monai_caches_up_to_these_transforms_and_seeds_them_through_set_random_state():
    monai = pytest.importorskip("monai", reason="MONAI is a development extra")
    image = first(stain_image())
    compose = monai.transforms.Compose([monai.transforms.ToNumpyd("image"), NormalizeStaind("image")])
    cached = monai.data.CacheDataset([{"image": image}], compose, progress=False)
    assert np.array_equal(cached._cache[0]["image"], image)  # not normalised yet
    assert np.array_equal(cached[0]["image"], NormalizeStain()(image))
    jitter = RandHEDJitter(prob=1, scale=0.2).set_random_state(0)
    state = jitter.R.get_state()[1].copy()
    monai.transforms.Compose([jitter]).set_random_state(seed=5)
    assert np.array_equal(jitter.R.get_state()[1], state)
    monai.data.utils.set_rnd(jitter, seed=5)
    assert not np.array_equal(jitter.R.get_state()[1], state)
