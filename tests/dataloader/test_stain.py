"""The stain methods against slow versions of the published arithmetic, and deconvolution against scikit-image."""

import logging
import shutil
import subprocess

import numpy as np
import pytest
import torch
from skimage import color

from dataloader.stain import (
    PUBLISHED_TARGET,
    MacenkoNormalizer,
    ReinhardNormalizer,
    StainStatistics,
    VahadaneNormalizer,
    arrays,
    hed2rgb,
    rgb2hed,
)
from dataloader.stain.cuda_source import SOURCE
from dataloader.stain.density import ROBUST, mixing_matrices
from dataloader.stain.fade import BACKGROUND_FROM, TISSUE_UNTIL
from dataloader.stain.lab import LINEAR, rgb_to_lab
from dataloader.stain.mixing import DensityMixing
from dataloader.stain.reinhard import LabShift
from dataloader.stain.vahadane import factorise, sparse_concentrations
from tests.nvrtc import compile_cuda
from tests.stained import STAINS, degrees_between, stain_image

TARGET = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
TARGET_MAXIMA = np.array([1.9705, 1.0308])

ABSORBANCE = {
    "monai": lambda levels: -np.log(np.minimum(levels + 1, 240) / 240),
    "torchstain": lambda levels: -np.log((levels + 1) / 240),
    "cucim": lambda levels: -np.log(np.clip(levels, 1, 240) / 240),
}
TISSUE = {
    "monai": lambda density: (density > 0.15).all(1),
    "torchstain": lambda density: ~(density < 0.15).any(1),
    "cucim": lambda density: (density > 0.345).any(1),
}


def plain_macenko(image, absorbance, tissue):
    """Macenko et al. 2009 written out in float64, with a least-squares solution for every pixel."""
    density = absorbance(image.reshape(-1, 3).astype(np.float64))
    kept = density[tissue(density)]
    plane = np.linalg.eigh(np.cov(kept.T))[1][:, 1:3]
    angles = np.arctan2(*(kept @ plane).T[::-1])
    edges = [plane @ [np.cos(angle), np.sin(angle)] for angle in np.percentile(angles, [1, 99])]
    stains = np.stack(sorted(edges, key=lambda edge: -edge[0]), 1)
    concentrations = np.linalg.lstsq(stains, density.T, rcond=None)[0]
    maxima = np.percentile(concentrations, 99, axis=1)
    scaled = concentrations * (TARGET_MAXIMA / maxima)[:, None]
    result = np.clip(240 * np.exp(-TARGET @ scaled), 0, 255).T.reshape(image.shape)
    return stains, maxima, result


@pytest.mark.parametrize("variant", ABSORBANCE)
def test_each_variant_is_the_peers_arithmetic_to_one_grey_level(variant):
    image = stain_image()
    stains, maxima, result = plain_macenko(image, ABSORBANCE[variant], TISSUE[variant])
    normalizer = MacenkoNormalizer(variant=variant).fit(image)
    np.testing.assert_allclose(normalizer.source.stain_matrix, stains, atol=1e-3)
    np.testing.assert_allclose(normalizer.source.max_concentrations, maxima, rtol=2e-3)
    assert np.abs(normalizer.transform(image) - result).max() <= 1


def test_torchstain_itself_gives_the_torchstain_variant():
    torchstain = pytest.importorskip("torchstain")
    image = stain_image()
    peer, _, _ = torchstain.normalizers.MacenkoNormalizer(backend="numpy").normalize(image, stains=False)
    ours = MacenkoNormalizer(variant="torchstain").fit(image).transform(image)
    assert np.abs(ours.astype(int) - peer).max() <= 1


def test_the_robust_variant_does_not_depend_on_how_much_glass_there_is():
    image = stain_image(528, 528, glass=0)
    with_glass = np.concatenate([image, np.full((400, *image.shape[1:]), 250, np.uint8)])
    assert MacenkoNormalizer().estimate(image) == MacenkoNormalizer().estimate(with_glass)


@pytest.mark.parametrize("normalizer", [MacenkoNormalizer(), VahadaneNormalizer()])
def test_known_stains_are_recovered_to_a_few_degrees(normalizer):
    found = normalizer.estimate(stain_image(528, 528))
    assert degrees_between(np.array(found.stain_matrix), STAINS).max() < 3
    assert (np.array(found.stain_matrix) >= 0).all()


def test_less_sparsity_recovers_noiseless_stains_better():
    generator = np.random.default_rng(0)
    concentrations = generator.gamma(2, 0.5, (2, 5000)) * (generator.random((2, 5000)) < 0.7)
    density = (STAINS @ concentrations).T.astype(np.float32)
    errors = [degrees_between(factorise(density, sparsity), STAINS).max() for sparsity in (0.3, 0.1, 0.01)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.5


def test_sparse_concentrations_are_the_best_of_a_fine_grid():
    density = (STAINS @ np.random.default_rng(1).uniform(-0.2, 1, (2, 30))).astype(np.float32)
    found = sparse_concentrations(density, STAINS, 0.1)
    grid = np.stack(np.meshgrid(np.linspace(0, 2, 201), np.linspace(0, 2, 201)), 0).reshape(2, -1)

    def cost(pixel, concentrations):
        return ((pixel[:, None] - STAINS @ concentrations) ** 2).sum(0) / 2 + 0.1 * concentrations.sum(0)

    for pixel, ours in zip(density.T, found.T, strict=True):
        assert cost(pixel, ours[:, None])[0] <= cost(pixel, grid).min() + 1e-6


def plain_reinhard(image, source, target):
    """Reinhard et al. 2001 by scikit-image's L*a*b*, with background blended in by its grey level."""
    lab = color.rgb2lab(image)
    lab = (lab - source.lab_mean) / source.lab_std * target.lab_std + target.lab_mean
    changed = 255 * color.lab2rgb(lab)
    span = BACKGROUND_FROM - TISSUE_UNTIL
    share = np.clip((BACKGROUND_FROM - image.min(2).astype(float)) / span, 0, 1)[..., None]
    return share * changed + (1 - share) * image


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_reinhard_is_scikit_images_lab_with_the_tissues_mean_and_spread():
    image = stain_image()
    normalizer = ReinhardNormalizer().fit(image)
    tissue = color.rgb2lab(image)[(-np.log(image.clip(1) / 255) > 0.15 * np.log(10)).any(2)]
    np.testing.assert_allclose(normalizer.source.lab_mean, tissue.mean(0), atol=2e-3)
    np.testing.assert_allclose(normalizer.source.lab_std, tissue.std(0), atol=2e-3)
    wanted = plain_reinhard(image, normalizer.source, normalizer.target)
    assert np.abs(normalizer.transform(image) - wanted).max() <= 1


def test_lab_is_scikit_images_over_all_grey_levels():
    levels = np.random.default_rng(0).integers(0, 256, (5000, 3), np.uint8)
    lab = np.stack(rgb_to_lab(LINEAR[levels.T], np), 1)
    np.testing.assert_allclose(lab, color.rgb2lab(levels[None])[0], atol=2e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3,), (7, 3), (6, 5, 3), (2, 6, 5, 3)])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_rgb2hed_and_hed2rgb_are_scikit_images(dtype, shape, convert):
    rgb = np.random.default_rng(0).random(shape).astype(dtype)
    rgb[..., 0] = np.where(rgb[..., 0] < 0.2, 0, rgb[..., 0])
    hed = rgb2hed(convert(rgb))
    assert type(hed) is type(convert(rgb))
    assert hed.dtype == convert(rgb).dtype
    np.testing.assert_allclose(hed, color.rgb2hed(rgb), atol=1e-5)
    back = hed2rgb(hed)
    assert back.dtype == hed.dtype
    np.testing.assert_allclose(back, color.hed2rgb(np.asarray(hed)), atol=1e-5)


def test_rgb2hed_of_bytes_is_scikit_images_in_any_layout():
    rgb = np.random.default_rng(0).integers(0, 256, (2, 300, 130, 3), np.uint8)
    wanted = color.rgb2hed(rgb)
    np.testing.assert_allclose(rgb2hed(rgb), wanted, atol=1e-5)
    np.testing.assert_allclose(rgb2hed(torch.from_numpy(rgb)), wanted, atol=1e-5)
    np.testing.assert_allclose(rgb2hed(rgb[:, ::2, ::-1]), wanted[:, ::2, ::-1], atol=1e-5)
    assert rgb2hed(rgb).dtype == np.float32
    assert rgb2hed(rgb[:0]).shape == (0, 300, 130, 3)


@pytest.mark.parametrize("values", [np.zeros((3, 4, 4), np.uint8), np.zeros((4, 3), np.int64), np.zeros(())])
def test_deconvolution_refuses_what_is_no_rgb(values):
    for call in (rgb2hed, hed2rgb):
        with pytest.raises(ValueError, match="must be"):
            call(values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"method": "macenko"},
        {"method": "macenko", "stain_matrix": [[1, 0], [0, 1]], "max_concentrations": [1, 1]},
        {
            "method": "macenko",
            "stain_matrix": [[1, 0], [0, 1], [0, float("nan")]],
            "max_concentrations": [1, 1],
        },
        {"method": "reinhard", "lab_mean": "abc", "lab_std": [1, 1, 1]},
        {"method": "identity", "intensity": 0},
        {"method": "identity", "colour": 1},
        [],
    ],
)
def test_statistics_that_are_incomplete_are_refused(values):
    with pytest.raises(ValueError, match="; "):
        StainStatistics.from_dict(values)


def test_a_file_that_is_no_json_is_refused_by_name(tmp_path):
    (tmp_path / "stain.json").write_text("no")
    with pytest.raises(ValueError, match="stain.json"):
        MacenkoNormalizer(tmp_path / "stain.json")
    with pytest.raises(FileNotFoundError):
        MacenkoNormalizer(tmp_path / "absent.json")


def test_statistics_as_a_dictionary_are_plain_and_lead_back():
    values = PUBLISHED_TARGET.to_dict()
    assert set(values) == {"method", "stain_matrix", "max_concentrations", "intensity"}
    assert StainStatistics.from_dict(values) == PUBLISHED_TARGET


def test_an_unknown_variant_lists_the_known():
    with pytest.raises(ValueError, match="robust, monai, torchstain, cucim"):
        MacenkoNormalizer(variant="none")


@pytest.mark.parametrize("noise", [0, 2])
def test_one_stain_alone_is_not_fitted(noise, caplog):
    generator = np.random.default_rng(0)
    density = generator.gamma(2, 0.5, (66, 66, 1)).repeat(8, 0).repeat(8, 1) * STAINS[:, 0]
    image = 255 * np.exp(-density) + generator.normal(0, noise, (528, 528, 3))
    with caplog.at_level(logging.WARNING):
        found = MacenkoNormalizer().estimate(image.round().clip(0, 255).astype(np.uint8))
    assert found.is_identity
    assert "colours stay" in caplog.text


@pytest.mark.parametrize("normalizer", [MacenkoNormalizer(), VahadaneNormalizer(), ReinhardNormalizer()])
def test_grey_with_a_cameras_noise_is_not_fitted(normalizer):
    image = np.random.default_rng(0).normal(153, 3, (528, 528, 3)).round().astype(np.uint8)
    assert normalizer.estimate(image).is_identity


def test_noise_of_the_camera_does_not_turn_the_stains_of_pale_eosin():
    generator = np.random.default_rng(0)
    image = stain_image(528, 528, eosin=0.3, glass=0).astype(float)
    noise = generator.normal(0, 9, (528, 528, 1)) * np.array([0, -0.4, 0.9])  # blue against green
    found = MacenkoNormalizer().estimate((image + noise).round().clip(0, 255).astype(np.uint8))
    assert degrees_between(np.array(found.stain_matrix), STAINS).max() < 5


@pytest.mark.parametrize(
    "normalizer", [MacenkoNormalizer(), VahadaneNormalizer(max_pixels=None), ReinhardNormalizer()]
)
def test_black_beside_a_slide_changes_nothing(normalizer):
    image = stain_image(528, 528, glass=0)
    with_black = np.concatenate([image, np.zeros((16, 528, 3), np.uint8)])
    assert normalizer.estimate(with_black) == normalizer.estimate(image)


HOST = """
#include <cmath>
#include <algorithm>
using std::min; using std::max;
struct Three { unsigned x, y; };
static Three threadIdx, blockIdx, blockDim, gridDim;
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __syncthreads()
static int __float2int_rn(float value) { return (int)std::fmax(std::fmin(std::nearbyint(value), 1e9f), -1e9f); }
#define __expf expf
"""
LOOP = """
extern "C" void run_%(name)s(%(parameters)s, unsigned images) {
    blockDim.x = 256; gridDim.x = 1;  // the table is loaded in a pass of its own: one thread after another
    for (blockIdx.y = 0; blockIdx.y < images; ++blockIdx.y)
        for (int pass = 0; pass < 2; ++pass)
            for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) %(name)s(%(names)s);
}
"""


@pytest.fixture(scope="module")
def host_kernels(tmp_path_factory):
    """The CUDA text compiled for this CPU, by a C++ compiler where there is one."""
    import ctypes

    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to check the kernels' arithmetic with")
    text = HOST + SOURCE
    for name in ("mix_densities", "shift_lab"):
        start = SOURCE.index(f"void {name}(") + len(f"void {name}(")
        parameters = SOURCE[start : SOURCE.index(")", start)]
        names = ", ".join(part.split()[-1].strip("*") for part in parameters.split(","))
        text += LOOP % {"name": name, "parameters": parameters, "names": names}
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cpp").write_text(text)
    command = [
        compiler,
        "-O1",
        "-shared",
        "-fPIC",
        "-o",
        str(folder / "kernels.so"),
        str(folder / "kernels.cpp"),
    ]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "kernels.so"))


def run_kernel(function, images, facts):
    import ctypes

    result = np.zeros_like(images)
    view = np.moveaxis(result, 1, -1)
    source = np.moveaxis(images, 1, -1)
    kinds = {np.bool_: ctypes.c_int, np.int32: ctypes.c_int, np.float32: ctypes.c_float}
    arguments = [ctypes.c_void_p(part.ctypes.data) for part in (images, result)]
    for fact in facts:
        is_array = isinstance(fact, np.ndarray)
        arguments.append(ctypes.c_void_p(fact.ctypes.data) if is_array else kinds[type(fact)](fact))
    pixels, width = images.shape[2] * images.shape[3], images.shape[3]
    arguments += [ctypes.c_uint(pixels), ctypes.c_uint(width)]
    arguments += [ctypes.c_longlong(step) for array in (source, view) for step in array.strides]
    function(*arguments, ctypes.c_uint(len(images)))
    return view


def test_the_kernels_arithmetic_is_the_cpus_to_one_grey_level(host_kernels):
    images = np.stack([stain_image(seed=seed) for seed in range(3)])
    planar = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    identity = StainStatistics("identity")
    macenko, reinhard = MacenkoNormalizer(), ReinhardNormalizer()
    sources = [macenko.estimate(images[0]), identity, macenko.estimate(images[2])]
    matrices = mixing_matrices(sources, macenko.target)
    mixing = DensityMixing(matrices, ROBUST.table(), 255.0, fades=True)
    facts = [mixing.table, mixing.matrices, mixing.unchanged, np.int32(1), np.int32(1), np.float32(255)]
    result = run_kernel(host_kernels.run_mix_densities, planar, facts)
    assert np.abs(result.astype(int) - macenko.transform(images, sources)).max() <= 1

    sources = [reinhard.estimate(images[0]), identity, reinhard.estimate(images[2])]
    shift = LabShift(sources, reinhard.target)
    affine = np.concatenate([shift.scale, shift.shift], 1)
    facts = [LINEAR, affine, shift.unchanged, np.int32(1)]
    result = run_kernel(host_kernels.run_shift_lab, planar, facts)
    assert np.abs(result.astype(int) - reinhard.transform(images, sources)).max() <= 1


def test_the_cuda_text_compiles():
    code = compile_cuda(SOURCE)
    assert "mix_densities" in code
    assert "shift_lab" in code


@pytest.mark.parametrize("error", [ImportError("libcudart"), RuntimeError("cudaErrorInsufficientDriver")])
def test_a_cupy_that_does_not_work_leaves_the_work_to_torch(error, monkeypatch, caplog):
    def fail():
        raise error

    monkeypatch.setattr(arrays, "find_spec", lambda name: object())
    monkeypatch.setattr(arrays, "load_gpu", fail)
    assert not arrays.has_cupy.__wrapped__()
    assert "torch works in its place" in caplog.text
