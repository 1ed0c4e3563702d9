import numpy as np
import pytest
import torch

from benchmarks.plain import plain_hv
from models.hovernet import targets
from models.hovernet.channels import HORIZONTAL, VERTICAL
from models.hovernet.targets import make_targets, split_pieces


def blobs(shape=(96, 96), seed=0, num_cells=60):
    """A label map of touching cells with gaps between some: nearest-seed cells, cut to discs."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, shape, (num_cells, 2))
    pixels = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1)
    distance = np.linalg.norm(pixels[:, :, None] - seeds, axis=-1)
    label_map = distance.argmin(axis=-1) + 1
    label_map[distance.min(axis=-1) > rng.uniform(4, 8)] = 0
    return split_pieces(label_map)


def centre_crop(array, size):
    top, left = ((length - size) // 2 for length in array.shape[-2:])
    return array[..., top : top + size, left : left + size]


def slow_legacy_hv(label_map, output_size):
    """The reference: small nuclei and those at the edge skipped, centres rounded, positions from 1."""
    hv = np.zeros((2, *label_map.shape), np.float32)
    shown = centre_crop(label_map, output_size)
    for nucleus in np.unique(shown[shown > 0]):
        if (shown == nucleus).sum() < 30:
            continue
        y, x = np.nonzero(label_map == nucleus)
        top, left = y.min() - 2, x.min() - 2
        if top < 0 or left < 0:
            continue
        for channel, positions in ((HORIZONTAL, x - left), (VERTICAL, y - top)):
            offset = (positions + 1 - int(positions.mean() + 0.5)).astype(np.float32)
            for side in (offset < 0, offset > 0):
                if side.any():
                    offset[side] /= np.abs(offset[side]).max()
            hv[channel, y, x] = offset
    return centre_crop(hv, output_size)


@pytest.mark.parametrize("output_size", [None, 40, 41])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int16])
def test_targets_equal_the_slow_loop_over_nuclei(output_size, dtype):
    label_maps = np.stack([blobs(seed=seed) for seed in range(3)])
    targets = make_targets(torch.from_numpy(label_maps).to(dtype), output_size=output_size)
    size = output_size or 96
    expected = np.stack([centre_crop(plain_hv(label_map), size) for label_map in label_maps])
    np.testing.assert_allclose(targets.hv.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(targets.nuclei.numpy(), centre_crop(label_maps > 0, size))
    assert targets.hv.dtype == torch.float32 and targets.nuclei.dtype == torch.int64
    assert targets.types is None


@pytest.mark.parametrize("seed", range(4))
def test_legacy_targets_equal_the_references_algorithm(seed):
    label_map = blobs(seed=seed)
    targets = make_targets(torch.from_numpy(label_map)[None], output_size=80, legacy=True)
    np.testing.assert_array_equal(targets.hv[0].numpy(), slow_legacy_hv(label_map, 80))


def test_legacy_leaves_small_and_edge_nuclei_without_hv_and_the_default_does_not():
    label_map = torch.zeros((1, 30, 30), dtype=torch.int32)
    label_map[0, 1:9, 10:20] = 1  # one pixel from the top edge
    label_map[0, 15:20, 15:20] = 2  # 25 px
    label_map[0, 22:28, 22:28] = 3  # 36 px, clear of both
    default, legacy = make_targets(label_map), make_targets(label_map, legacy=True)
    for nucleus, has_legacy_values in ((1, False), (2, False), (3, True)):
        inside = label_map[0] == nucleus
        assert default.hv[0][:, inside].any()
        assert bool(legacy.hv[0][:, inside].any()) is has_legacy_values
    assert torch.equal(default.nuclei, legacy.nuclei)


def test_a_row_of_five_pixels_runs_from_minus_one_to_one():
    label_map = torch.zeros((1, 3, 7), dtype=torch.int32)
    label_map[0, 1, 1:6] = 9
    hv = make_targets(label_map).hv[0]
    assert hv[HORIZONTAL, 1].tolist() == [0, -1, -0.5, 0, 0.5, 1, 0]
    assert not hv[VERTICAL].any()


def test_sides_are_scaled_independently():
    label_map = torch.zeros((1, 2, 4), dtype=torch.int32)
    label_map[0, 0, :3] = label_map[0, 1, 0] = 1  # columns 0, 0, 1, 2: the centre is at .75
    hv = make_targets(label_map).hv[0, HORIZONTAL, 0]
    torch.testing.assert_close(hv, torch.tensor([-1, 0.25 / 1.25, 1, 0]))


def test_legacy_puts_zero_one_pixel_before_the_rounded_centre():
    label_map = torch.zeros((1, 12, 12), dtype=torch.int32)
    label_map[0, 3:9, 3:9] = 1  # the centre is at 5.5, rounded 6, so zero at 5: offsets -2 … 3
    hv = make_targets(label_map, legacy=True).hv[0, HORIZONTAL, 5, 3:9]
    torch.testing.assert_close(hv, torch.tensor([-1, -0.5, 0, 1 / 3, 2 / 3, 1]))


def test_the_centre_is_that_of_the_whole_nucleus_where_the_output_cuts_it():
    label_map = torch.zeros((1, 20, 20), dtype=torch.int32)
    label_map[0, 5:15, 2:19] = 1
    whole, cut = make_targets(label_map), make_targets(label_map, output_size=8)
    assert torch.equal(cut.hv, centre_crop(whole.hv, 8))


def test_a_batch_gives_each_patch_what_it_gets_alone():
    label_maps = torch.from_numpy(np.stack([blobs(seed=seed) for seed in range(4)]))
    together = make_targets(label_maps, output_size=50)
    alone = [make_targets(label_map[None], output_size=50).hv for label_map in label_maps]
    assert torch.equal(together.hv, torch.cat(alone))


@pytest.mark.parametrize("batch", [1, 2])
def test_large_and_gapped_ids_give_the_same_as_contiguous_ones(batch):
    label_map = torch.from_numpy(np.stack([blobs(seed=seed) for seed in range(batch)])).long()
    assert torch.equal(make_targets(label_map * 10**12).hv, make_targets(label_map).hv)


def test_large_ids_without_background_are_encoded():
    label_map = torch.full((1, 9, 9), 10**9)
    assert make_targets(label_map).hv[0, HORIZONTAL, 0].tolist() == [
        -1,
        -0.75,
        -0.5,
        -0.25,
        0,
        0.25,
        0.5,
        0.75,
        1,
    ]


def test_no_nuclei_give_zeros():
    targets = make_targets(torch.zeros((2, 16, 16), dtype=torch.int32), output_size=10)
    assert targets.hv.shape == (2, 2, 10, 10)
    assert not targets.hv.any() and not targets.nuclei.any()


def test_a_nucleus_of_one_pixel_has_hv_zero():
    targets = make_targets(torch.ones((1, 1, 1), dtype=torch.int32))
    assert targets.nuclei.item() == 1 and not targets.hv.any()


def test_legacy_copes_without_background():
    assert make_targets(torch.ones((1, 20, 20), dtype=torch.int32), legacy=True).nuclei.all()


def test_types_are_cropped_with_the_rest():
    type_map = torch.arange(36).reshape(1, 6, 6).to(torch.uint8)
    targets = make_targets(torch.ones((1, 6, 6), dtype=torch.int32), type_map, 2)
    assert targets.types is not None and targets.types.dtype == torch.int64
    assert targets.types[0].tolist() == [[14, 15], [20, 21]]


@pytest.mark.parametrize(
    ("label_map", "arguments", "message"),
    [
        (torch.zeros((4, 4), dtype=torch.int32), {}, "label_map is"),
        (torch.zeros((1, 4, 4)), {}, "float32"),
        (torch.full((1, 4, 4), -1), {}, "holds -1"),
        (torch.zeros((1, 4, 4), dtype=torch.int32), {"output_size": 5}, "output_size=5"),
        (
            torch.zeros((1, 4, 4), dtype=torch.int32),
            {"type_map": torch.zeros((1, 3, 4), dtype=torch.int32)},
            "type_map",
        ),
    ],
)
def test_unfit_maps_are_refused(label_map, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_targets(label_map, **arguments)


def test_pieces_of_one_id_become_nuclei_of_their_own():
    label_map = np.array([[5, 0, 5], [5, 7, 0], [0, 7, 7]])
    np.testing.assert_array_equal(split_pieces(label_map), [[1, 0, 2], [1, 3, 0], [0, 3, 3]])


def test_touching_ids_stay_apart_and_diagonals_do_not_connect():
    np.testing.assert_array_equal(split_pieces(np.array([[3, 4], [4, 3]], np.uint8)), [[1, 2], [3, 4]])


@pytest.mark.parametrize("legacy", [False, True])
def test_the_way_that_never_waits_for_a_device_gives_the_same_numbers(legacy, monkeypatch):
    label_maps = torch.from_numpy(np.stack([blobs(seed=seed) for seed in range(3)]))
    expected = make_targets(label_maps, output_size=60, legacy=legacy)
    monkeypatch.setattr(targets, "_is_on_host", lambda tensor: False)
    found = make_targets(label_maps, output_size=60, legacy=legacy, max_id=int(label_maps.max()) + 5)
    torch.testing.assert_close(found.hv, expected.hv, rtol=0, atol=0)
    assert torch.equal(found.nuclei, expected.nuclei)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_waits_for_the_device():
    label_maps = torch.from_numpy(np.stack([blobs(seed=seed) for seed in range(3)]))
    highest, on_device = int(label_maps.max()), label_maps.cuda()
    make_targets(on_device, output_size=60, max_id=highest)
    torch.cuda.set_sync_debug_mode("error")
    try:
        make_targets(on_device, output_size=60, max_id=highest)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_gives_the_same_numbers():
    label_maps = torch.from_numpy(np.stack([blobs(seed=seed) for seed in range(3)]))
    for legacy in (False, True):
        here = make_targets(label_maps, output_size=60, legacy=legacy)
        there = make_targets(label_maps.cuda(), output_size=60, legacy=legacy)
        torch.testing.assert_close(there.hv.cpu(), here.hv)
