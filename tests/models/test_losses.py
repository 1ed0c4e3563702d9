import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.hovernet.channels import HORIZONTAL, VERTICAL
from models.hovernet.losses import TERMS, HoVerLoss, cross_entropy, dice_loss
from models.hovernet.network import HoverMaps
from models.hovernet.targets import Targets, make_targets


def random_case(seed=0, num_types=3, size=12):
    generator = torch.Generator().manual_seed(seed)
    label_map = torch.zeros((2, size, size), dtype=torch.int32)
    label_map[:, 2:7, 3:9], label_map[0, 8:11, 1:6] = 1, 2
    targets = make_targets(label_map, torch.where(label_map > 0, num_types - 1, 0))
    shape = (size, size)
    maps = HoverMaps(
        torch.randn((2, 2, *shape), generator=generator),
        torch.randn((2, 2, *shape), generator=generator),
        torch.randn((2, num_types, *shape), generator=generator),
    )
    return maps, targets


def perfect_maps(targets, num_types=3):
    def logits(classes, count):
        return 60 * F.one_hot(classes, count).movedim(-1, 1).float() - 30

    return HoverMaps(logits(targets.nuclei, 2), targets.hv.clone(), logits(targets.types, num_types))


def slow_gradient(image, axis):
    """Correlate with the 5x5 kernel offset / (y² + x²), zeros outside, one pixel after another."""
    padded = np.pad(image, 2)
    result = np.zeros_like(image)
    for y, x in np.ndindex(*image.shape):
        for dy, dx in np.ndindex(5, 5):
            offsets = (dy - 2, dx - 2)
            kernel = offsets[axis] / (offsets[0] ** 2 + offsets[1] ** 2 + 1e-15)
            result[y, x] += kernel * padded[y + dy, x + dx]
    return result


def slow_msge(maps, targets, axes):
    total, count = 0.0, 0.0
    for sample in range(len(maps.hv)):
        focus = targets.nuclei[sample].numpy()
        for channel, axis in axes.items():
            true = slow_gradient(targets.hv[sample, channel].double().numpy(), axis)
            predicted = slow_gradient(maps.hv[sample, channel].double().numpy(), axis)
            total += (focus * (true - predicted) ** 2).sum()
            count += focus.sum()
    return total / (count + 1e-8)


def test_a_perfect_prediction_costs_nothing():
    _, targets = random_case()
    total, terms = HoVerLoss()(perfect_maps(targets), targets)
    assert tuple(terms) == TERMS
    for name, term in terms.items():
        assert term.item() == pytest.approx(0, abs=1e-5), name
    assert total.item() == pytest.approx(0, abs=1e-5)


def test_a_type_that_no_pixel_has_costs_nothing():
    _, targets = random_case()
    _, terms = HoVerLoss()(perfect_maps(targets, num_types=7), targets)
    assert terms["nc_dice"].item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("legacy", "axes"), [(False, {HORIZONTAL: 1, VERTICAL: 0}), (True, {HORIZONTAL: 0, VERTICAL: 1})]
)
def test_gradient_error_equals_the_slow_version(legacy, axes):
    maps, targets = random_case()
    _, terms = HoVerLoss(legacy=legacy)(maps, targets)
    assert terms["hv_msge"].item() == pytest.approx(slow_msge(maps, targets, axes), rel=1e-5)


def test_a_horizontal_ramp_has_a_gradient_along_its_axis_and_none_across():
    # Far from the border a ramp of slope s gives s Σ x² / (x² + y²) = 12 s: x and y share the 24 places.
    label_map = torch.zeros((1, 20, 20), dtype=torch.int32)
    label_map[:, 8:12, 8:12] = 1
    targets = make_targets(label_map)._replace(hv=torch.zeros(1, 2, 20, 20))
    hv = torch.zeros(1, 2, 20, 20)
    hv[:, HORIZONTAL] = 0.1 * torch.arange(20.0)
    maps = HoverMaps(torch.zeros(1, 2, 20, 20), hv, None)
    _, default = HoVerLoss()(maps, targets)
    _, legacy = HoVerLoss(legacy=True)(maps, targets)
    assert default["hv_msge"].item() == pytest.approx(1.2**2 / 2, rel=1e-5)  # the other channel's half is 0
    assert legacy["hv_msge"].item() == pytest.approx(0, abs=1e-9)


def test_errors_outside_nuclei_count_in_mse_and_not_in_msge():
    targets = Targets(torch.zeros(1, 8, 8, dtype=torch.long), torch.zeros(1, 2, 8, 8), None)
    maps = HoverMaps(torch.zeros(1, 2, 8, 8), torch.full((1, 2, 8, 8), 0.5), None)
    _, terms = HoVerLoss()(maps, targets)
    assert terms["hv_mse"].item() == pytest.approx(0.25)
    assert terms["hv_msge"].item() == 0


def test_undecided_logits_cost_the_logarithm_of_the_number_of_classes():
    _, targets = random_case(num_types=5)
    maps = HoverMaps(torch.zeros(2, 2, 12, 12), targets.hv, torch.zeros(2, 5, 12, 12))
    _, terms = HoVerLoss()(maps, targets)
    assert terms["np_ce"].item() == pytest.approx(math.log(2), rel=1e-6)
    assert terms["nc_ce"].item() == pytest.approx(math.log(5), rel=1e-6)


def test_dice_of_a_hand_computed_case():
    # 4 pixels, 1 nuclear; p = 1/2 everywhere: background 1 - (3 + s)/(5 + s), nucleus 1 - (1 + s)/(3 + s).
    target = torch.tensor([[[1, 0], [0, 0]]])
    loss = dice_loss(torch.full((1, 2, 2, 2), 0.5), target)
    assert loss.item() == pytest.approx(1 - 3.001 / 5.001 + 1 - 1.001 / 3.001, rel=1e-6)


def test_focal_factor_plays_down_pixels_already_right():
    probability = torch.tensor([[0.9, 0.4], [0.1, 0.6]]).view(1, 2, 1, 2)  # class, then two pixels
    target = torch.tensor([[[0, 1]]])
    loss = cross_entropy(probability.log(), target, focal_gamma=2.0)
    assert loss.item() == pytest.approx(-(0.1**2 * math.log(0.9) + 0.4**2 * math.log(0.6)) / 2, rel=1e-4)


@pytest.mark.parametrize("focal_gamma", [0.0, 1e-9])
def test_class_weights_weigh_pixels_by_their_type(focal_gamma):
    probability = torch.tensor([[0.9, 0.4], [0.1, 0.6]]).view(1, 2, 1, 2)
    target = torch.tensor([[[0, 1]]])
    loss = cross_entropy(probability.log(), target, torch.tensor([1.0, 3.0]), focal_gamma)
    assert loss.item() == pytest.approx(-(math.log(0.9) + 3 * math.log(0.6)) / 4, rel=1e-5)


def test_class_weights_touch_types_only():
    maps, targets = random_case()
    _, plain = HoVerLoss()(maps, targets)
    _, weighted = HoVerLoss(class_weights=[1, 1, 4])(maps, targets)
    assert [name for name in TERMS if not torch.equal(plain[name], weighted[name])] == ["nc_ce"]


def test_the_total_is_the_weighted_sum():
    maps, targets = random_case()
    weights = {"hv_mse": 2.0, "nc_dice": 0.0}
    total, terms = HoVerLoss(weights)(maps, targets)
    expected = sum(weights.get(name, 1.0) * term.item() for name, term in terms.items())
    assert total.item() == pytest.approx(expected, rel=1e-6)


def test_gradients_reach_every_output():
    maps, targets = random_case()
    leaves = HoverMaps(*(output.clone().requires_grad_() for output in maps))
    HoVerLoss(focal_gamma=1.5, class_weights=[1, 2, 3])(leaves, targets)[0].backward()
    for leaf in leaves:
        assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.any()


def test_a_focal_loss_of_perfect_logits_has_finite_gradients():
    _, targets = random_case()
    leaves = HoverMaps(*(output.requires_grad_() for output in perfect_maps(targets)))
    HoVerLoss(focal_gamma=0.5)(leaves, targets)[0].backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_extreme_logits_give_finite_terms():
    maps, targets = random_case()
    total, _ = HoVerLoss()(HoverMaps(maps.nuclei * 1e4, maps.hv, maps.types * 1e4), targets)
    assert total.isfinite()


def test_half_precision_maps_are_computed_in_float32_under_autocast():
    maps, targets = random_case()
    halves = HoverMaps(*(output.bfloat16() for output in maps))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = HoVerLoss()(halves, targets)
    expected, _ = HoVerLoss()(HoverMaps(*(output.float() for output in halves)), targets)
    assert total.dtype == torch.float32 and torch.equal(total, expected)


def test_a_network_without_types_has_four_terms():
    maps, targets = random_case()
    _, terms = HoVerLoss()(maps._replace(types=None), targets)
    assert tuple(terms) == TERMS[:4]


def test_no_buffer_enters_a_checkpoint():
    assert not HoVerLoss(class_weights=[1, 2]).state_dict()


def test_a_type_out_of_range_is_refused():
    maps, targets = random_case(num_types=3)
    with pytest.raises(ValueError, match="types run from 0 to 5.*types 0 to 2"):
        HoVerLoss()(maps, targets._replace(types=targets.types.clamp(max=1) * 5))


def test_an_unknown_term_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="tp_bce.*np_ce"):
        HoVerLoss({"tp_bce": 1.0})


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        HoVerLoss({"np_ce": -1.0})


def test_maps_of_another_size_are_refused():
    maps, targets = random_case()
    with pytest.raises(ValueError, match="output size"):
        HoVerLoss()(maps, targets._replace(hv=targets.hv[..., :10]))
