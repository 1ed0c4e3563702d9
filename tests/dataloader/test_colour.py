import colorsys

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter

from dataloader.colour import ColourAugment, adjust_tone, blur_gaussian, filter_median, shift_hue

OFF = {"hue": 0, "saturation": 0, "brightness": 0, "contrast": (1, 1), "degrade": 0}


def random_images(num=4, height=16, width=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=generator)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def flat_images(num, level):
    return torch.full((num, 3, 8, 8), level, dtype=torch.uint8)


def test_zero_ranges_give_the_input_back():
    images = random_images()
    assert torch.equal(ColourAugment(**OFF)(images, seeded()), images)


def test_degrading_without_noise_or_kernels_gives_the_input_back():
    images = random_images(num=12)
    settings = OFF | {"degrade": 1, "blur_kernels": (1,), "noise": 0}
    assert torch.equal(ColourAugment(**settings)(images, seeded()), images)


def test_the_input_is_left_as_it_was():
    images = random_images()
    before = images.clone()
    ColourAugment()(images, seeded())
    assert torch.equal(images, before)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_shape_dtype_and_memory_format_are_kept(memory_format):
    images = random_images().contiguous(memory_format=memory_format)
    augmented = ColourAugment()(images, seeded())
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.uint8
    assert augmented.is_contiguous(memory_format=memory_format)


def test_the_memory_format_does_not_change_the_result():
    images = random_images(num=8)
    augmented = ColourAugment()(images, seeded())
    as_channels_last = ColourAugment()(images.contiguous(memory_format=torch.channels_last), seeded())
    assert (augmented.int() - as_channels_last.int()).abs().max() <= 1


def test_the_same_seed_gives_the_same_batch_and_another_seed_another():
    images = random_images()
    first, again, other = (ColourAugment()(images, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_generator_is_not_used():
    state = torch.get_rng_state()
    ColourAugment()(random_images(num=8), seeded())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "name, value", [("hue", 8), ("saturation", 0.2), ("brightness", 26), ("contrast", (0.5, 1.5))]
)
def test_samples_of_a_batch_get_different_draws(name, value):
    images = random_images(num=1).expand(6, -1, -1, -1)
    augmented = ColourAugment(**OFF | {name: value})(images, seeded())
    assert len({sample.numpy().tobytes() for sample in augmented}) == 6


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (1, 3, 9, 7), (9, 3, 1, 1)])
def test_small_and_empty_batches_work(shape):
    images = torch.zeros(shape, dtype=torch.uint8)
    assert ColourAugment()(images, seeded()).shape == shape


def test_values_that_leave_the_range_are_clipped_and_do_not_wrap():
    settings = OFF | {"brightness": 255}
    white, black = (
        ColourAugment(**settings)(flat_images(32, level), seeded())[:, 0, 0, 0] for level in (255, 0)
    )
    assert (white == 255).any()
    assert (black == 0).any()
    assert torch.equal(white == 255, black != 0)


def test_brightness_adds_one_level_to_a_whole_sample_within_its_range():
    images = flat_images(200, 100)
    shift = ColourAugment(**OFF | {"brightness": 26})(images, seeded()).int() - 100
    assert torch.equal(shift.amin((1, 2, 3)), shift.amax((1, 2, 3)))
    assert shift.min() in range(-26, -22)
    assert shift.max() in range(23, 27)


def test_contrast_scales_the_distance_from_the_mean():
    pixels = torch.tensor([80.0, 120.0]).expand(1, 3, 2, 2).clone()
    adjusted = adjust_tone(pixels, torch.ones(1), torch.tensor([1.25]))
    assert torch.allclose(adjusted, torch.tensor([75.0, 125.0]).expand(1, 3, 2, 2))


def test_contrast_alone_changes_the_spread_and_keeps_the_mean():
    # 96..159, which a factor of 1.25 does not clip
    images = random_images(num=20, height=64, width=64) // 4 + 96
    augmented = ColourAugment(**OFF | {"contrast": (0.75, 1.25)})(images, seeded())
    factor = augmented.float().std((1, 2, 3)) / images.float().std((1, 2, 3))
    assert torch.allclose(augmented.float().mean((1, 2, 3)), images.float().mean((1, 2, 3)), atol=0.1)
    assert 0.74 < factor.min() < 0.9
    assert 1.1 < factor.max() < 1.26


def test_no_saturation_gives_the_grey_image():
    images = random_images()
    adjusted = adjust_tone(images.float(), torch.zeros(4), torch.ones(4))
    for image, grey in zip(images, adjusted, strict=True):
        expected = cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)
        assert np.abs(grey.numpy() - expected).max() <= 0.51


def test_saturation_leaves_grey_pixels_alone():
    pixels = torch.arange(64.0).reshape(1, 1, 8, 8).expand(1, 3, 8, 8).clone()
    assert torch.allclose(adjust_tone(pixels.clone(), torch.tensor([1.2]), torch.ones(1)), pixels, atol=1e-4)


@pytest.mark.parametrize("steps", [-90.0, -8.0, 0.0, 3.5, 8.0, 61.0, 90.0])
def test_hue_turns_as_colorsys_turns_it(steps):
    images = random_images(num=1, height=12, width=12)
    # greys and cyan
    images[0, :, 0, :4] = torch.tensor([[0, 255, 90, 0], [0, 255, 90, 255], [0, 255, 90, 255]])
    turned = shift_hue(images.float(), torch.tensor([steps]))
    for before, after in zip(images[0].flatten(1).T, turned[0].flatten(1).T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before.numpy() / 255.0))
        expected = np.multiply(colorsys.hsv_to_rgb((hue + steps / 180) % 1, saturation, value), 255)
        assert np.abs(after.numpy() - expected).max() < 0.01


def test_hue_alone_turns_no_further_than_its_range():
    images = flat_images(100, 0)
    images[:, 0] = 200  # pure red: a turn of 8 steps, 16 degrees, raises one channel by 200 * 16 / 60
    augmented = ColourAugment(**OFF | {"hue": 8})(images, seeded())[:, :, 0, 0]
    assert (augmented[:, 0] == 200).all()
    assert 40 < augmented[:, 1].max() <= 53
    assert 40 < augmented[:, 2].max() <= 53


def test_contrast_comes_before_hue_in_every_other_sample():
    images = torch.zeros((200, 3, 8, 8), dtype=torch.uint8)
    images[:, 0] = 200
    images[:, 1, 4:] = 200  # half red, half yellow; a contrast of 0 leaves their mean, (200, 100, 0)
    augmented = ColourAugment(**OFF | {"hue": 8, "contrast": (0, 0)})(images, seeded())
    range_is_kept = (augmented.amax((1, 2, 3)) == 200) & (augmented.amin((1, 2, 3)) == 0)
    assert 70 < range_is_kept.sum() < 130  # hue turns one colour and keeps its range, but not the mean of two


@pytest.mark.parametrize("height, width", [(1, 3), (3, 3), (5, 3), (3, 5), (5, 5)])
def test_a_blurred_impulse_is_symmetrical_and_keeps_its_sum(height, width):
    pixels = torch.zeros(1, 3, 11, 11)
    pixels[..., 5, 5] = 160
    blurred = blur_gaussian(pixels, torch.tensor([[height], [width]]), largest=5)
    assert torch.allclose(blurred.sum((2, 3)), torch.tensor(160.0))
    assert torch.equal(blurred, blurred.flip(2, 3))
    assert (blurred[0, 0] > 0).sum() == height * width
    assert torch.equal(blurred.amax((2, 3)), blurred[..., 5, 5])


def test_the_blur_is_the_one_opencv_gives_for_the_size():
    images = random_images(num=3, height=13, width=9)
    sizes = torch.tensor([[1, 3, 5], [5, 3, 1]])
    blurred = blur_gaussian(images.float(), sizes, largest=5)
    for image, result, (height, width) in zip(images, blurred, sizes.T.tolist(), strict=True):
        expected = cv2.GaussianBlur(
            np.ascontiguousarray(image.permute(1, 2, 0).numpy()).astype(np.float32),
            (width, height),
            sigmaX=0,
            borderType=cv2.BORDER_REPLICATE,
        )
        assert np.allclose(result.permute(1, 2, 0).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_the_median_is_the_middle_of_each_sorted_window(size):
    images = random_images(num=2, height=9, width=11)
    expected = median_filter(images.numpy(), size=(1, 1, size, size), mode="nearest")
    assert np.array_equal(filter_median(images, size).numpy(), expected)


def test_the_median_removes_salt_and_keeps_an_edge():
    images = flat_images(1, 50)
    images[..., 4:] = 200
    salted = images.clone()
    salted[..., 2, 2] = 255
    salted[..., 6, 6] = 0
    assert torch.equal(filter_median(salted, 3), images)


def test_noise_has_no_mean_and_a_spread_within_its_range_and_some_of_it_is_grey():
    images = torch.full((90, 3, 48, 48), 128, dtype=torch.uint8)
    settings = OFF | {"degrade": 1, "blur_kernels": (1,), "noise": 12}
    change = ColourAugment(**settings)(images, seeded()).float() - 128
    spread = change.std((1, 2, 3))
    is_noisy = spread > 0
    is_grey = (change == change[:, :1]).all(dim=(1, 2, 3))
    assert 15 < is_noisy.sum() < 45  # one sample in three
    assert spread.max() < 12.5
    assert change.mean((1, 2, 3)).abs().max() < 0.6
    assert 5 < (is_grey & is_noisy).sum() < is_noisy.sum() - 5  # every other one


def test_without_noise_every_degraded_sample_is_blurred():
    images = random_images(num=60)
    augmented = ColourAugment(**OFF | {"degrade": 1, "blur_kernels": [3], "noise": 0})(images, seeded())
    medians = filter_median(images, 3)
    blurred = blur_gaussian(images.float(), torch.full((2, 60), 3), largest=3).round()
    is_median = (augmented == medians).flatten(1).all(dim=1)
    is_blurred = (augmented == blurred).flatten(1).all(dim=1)
    assert (is_median ^ is_blurred).all()
    assert 15 < is_median.sum() < 45


def test_as_many_samples_are_degraded_as_asked():
    images = random_images(num=1, height=8, width=8).expand(400, -1, -1, -1)
    settings = OFF | {"degrade": 0.25, "blur_kernels": (3, 5), "noise": 12}
    is_changed = (ColourAugment(**settings)(images, seeded()) != images).any(dim=1).flatten(1).any(dim=1)
    assert 65 <= is_changed.sum() <= 135  # 100 expected, four standard deviations are 35


@pytest.mark.parametrize(
    "settings",
    [
        {"hue": 91},
        {"saturation": -0.1},
        {"brightness": 256},
        {"contrast": (1.25, 0.75)},
        {"degrade": 1.5},
        {"blur_kernels": (2,)},
        {"blur_kernels": ()},
        {"noise": -1},
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ColourAugment(**settings)


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 3, dtype=torch.uint8)])
def test_images_that_are_not_uint8_rgb_are_refused(images):
    with pytest.raises(ValueError, match="uint8 RGB"):
        ColourAugment()(images, seeded())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_on_the_gpu_is_augmented_there():
    images = random_images(num=16).cuda()
    first, again = (ColourAugment()(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.device == images.device
    assert torch.equal(first, again)
    with pytest.raises(ValueError, match="generator"):
        ColourAugment()(images, torch.Generator("cuda"))
