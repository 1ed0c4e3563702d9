import numpy as np
import pytest
import torch
from skimage import color

from dataloader.stain import HedJitter
from dataloader.stain.deconvolution import HED_FROM_RGB, RGB_FROM_HED
from tests.stained import stain_image


def tissue(num=3, glass=0.2):
    images = np.stack([stain_image(40, 50, seed=seed, glass=glass) for seed in range(num)])
    return torch.from_numpy(images).movedim(-1, 1).contiguous()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_zero_ranges_give_the_input_back():
    images = tissue().clamp(min=1)
    assert torch.equal(HedJitter(0, 0)(images, seeded()), images)


def test_the_input_is_left_and_shape_and_memory_format_are_kept():
    images = tissue().contiguous(memory_format=torch.channels_last)
    before = images.clone()
    result = HedJitter(0.2, 0.2)(images, seeded())
    assert torch.equal(images, before)
    assert result.stride() == images.stride()
    assert torch.equal(result, HedJitter(0.2, 0.2)(images.contiguous(), seeded()))


def test_each_sample_has_its_own_draw_and_one_seed_gives_one_batch():
    images = tissue(1).expand(5, -1, -1, -1)
    first, again, other = (HedJitter(0.2, 0.2)(images, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({sample.numpy().tobytes() for sample in first}) == 5


def test_the_global_generator_is_not_used():
    state = torch.get_rng_state()
    HedJitter()(tissue(), seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_white_stays_white_and_glass_nearly():
    white = torch.full((20, 3, 4, 4), 255, dtype=torch.uint8)
    assert torch.equal(HedJitter(0.2, 0.2)(white, seeded()), white)
    glass = torch.full_like(white, 243)
    assert (HedJitter(0.05, 0.05)(glass, seeded()).int() - 243).abs().max() <= 9


def test_scaling_multiplies_the_concentrations_of_each_stain():
    rgb = np.random.default_rng(0).uniform(0.2, 0.8, (50, 3))
    density = -np.log(rgb)
    scales, shifts = torch.tensor([[1.0, -1.0, 0.5]]).double(), torch.tensor([[-1.0, 0.5, 1.0]]).double()
    matrices, offsets = HedJitter(0.2, 0.1).density_changes(scales, shifts)
    concentrations = density @ HED_FROM_RGB
    wanted = (concentrations * [1.2, 0.8, 1.1] + [-0.1, 0.05, 0.1]) @ RGB_FROM_HED
    np.testing.assert_allclose(density @ matrices[0].numpy().T + offsets[0].numpy(), wanted, atol=1e-9)


def test_the_jittered_image_is_that_of_scikit_images_changed_concentrations():
    # Drawn so that no concentration is negative, which scikit-image would cut off.
    hed = np.random.default_rng(0).uniform(0.02, 0.06, (30, 30, 3))
    image = (255 * color.hed2rgb(hed)).round().astype(np.uint8)
    jitter = HedJitter(0.2, 0.0)
    result = jitter(torch.from_numpy(image).movedim(-1, 0)[None], seeded(5))[0].movedim(0, -1).numpy()
    draws = 2 * torch.rand((2, 1, 3), generator=seeded(5), dtype=torch.float64) - 1
    concentrations = -np.log(image / 255) @ np.linalg.inv(color.rgb_from_hed)
    changed = concentrations * (1 + 0.2 * draws[0, 0].numpy())
    wanted = 255 * np.exp(-changed @ color.rgb_from_hed)
    assert np.abs(result - wanted).max() <= 0.51


def test_an_empty_batch_gives_an_empty_batch():
    assert HedJitter()(torch.zeros((0, 3, 4, 4), dtype=torch.uint8), seeded()).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    "images", [torch.zeros((1, 3, 4, 4)), torch.zeros((3, 4, 4), dtype=torch.uint8), tissue()[:, :2]]
)
def test_what_is_no_batch_of_rgb_bytes_is_refused(images):
    with pytest.raises(ValueError, match="uint8 RGB"):
        HedJitter()(images, seeded())


@pytest.mark.parametrize("settings", [{"scale": -0.1}, {"shift": 2}, {"scale": float("nan")}])
def test_ranges_outside_their_limits_are_refused(settings):
    with pytest.raises(ValueError, match="outside 0..1"):
        HedJitter(**settings)


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu_to_one_grey_level():
    images = tissue()
    on_gpu = HedJitter(0.2, 0.2)(images.cuda(), seeded()).cpu()
    assert (on_gpu.int() - HedJitter(0.2, 0.2)(images, seeded()).int()).abs().max() <= 1
