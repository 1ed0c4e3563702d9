"""What ``targets`` encodes ``postprocess`` decodes."""

import numpy as np
import pytest
import torch
from scipy.io import loadmat

from models.hovernet.postprocess import NORMALISATIONS, decode
from models.hovernet.targets import make_targets, split_pieces


def touching_ellipses(size=256, count=12, seed=0):
    """``count`` x ``count`` ellipses, each as wide or as high as its place, so that neighbours touch."""
    rng = np.random.default_rng(seed)
    pitch = size / count
    label_map = np.zeros((size, size), np.int32)
    y, x = np.mgrid[:size, :size]
    for number in range(count**2):
        row, column = divmod(number, count)
        radii = pitch / 2 * rng.uniform([0.85, 0.95], [1.0, 1.1])
        dy, dx = y - (row + 0.5) * pitch, x - (column + 0.5) * pitch
        is_inside = (dy / radii[0]) ** 2 + (dx / radii[1]) ** 2 < 1
        label_map[is_inside & (label_map == 0)] = number + 1
    return label_map


def slow_panoptic_quality(true, predicted):
    """Kirillov et al. 2019: sum of the IoUs above 1/2, over pairs and half of what has no pair."""
    true_masks = [true == nucleus for nucleus in np.unique(true[true > 0])]
    predicted_masks = [predicted == nucleus for nucleus in np.unique(predicted[predicted > 0])]
    overlaps = []
    for mask in true_masks:
        for nucleus in np.unique(predicted[mask & (predicted > 0)]):
            other = predicted == nucleus
            overlaps.append((mask & other).sum() / (mask | other).sum())
    pairs = [iou for iou in overlaps if iou > 0.5]
    return sum(pairs) / ((len(true_masks) + len(predicted_masks)) / 2)


def round_trip(label_map, **arguments):
    targets = make_targets(torch.from_numpy(label_map)[None], **arguments)
    return targets.nuclei[0].numpy().astype(np.float32), targets.hv[0].numpy()


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("legacy", [False, True])
def test_touching_ellipses_come_back(normalisation, legacy):
    # legacy encodes nothing at the top and left edge
    label_map = np.pad(touching_ellipses(), 4 if legacy else 0)
    assert len(np.unique(label_map)) == 145
    decoded, nuclei = decode(*round_trip(label_map, legacy=legacy), normalisation=normalisation)
    assert slow_panoptic_quality(label_map, decoded) >= 0.99
    assert len(nuclei) == 144


def test_every_label_is_back_with_its_type():
    label_map = touching_ellipses(seed=1)
    type_map = np.where(label_map > 0, 1 + label_map % 4, 0)
    targets = make_targets(torch.from_numpy(label_map)[None], torch.from_numpy(type_map)[None])
    probability = np.stack([targets.types[0].numpy() == number for number in range(5)]).astype(np.float32)
    decoded, nuclei = decode(*round_trip(label_map), probability)
    rows = np.round(nuclei.centroids).astype(int)
    assert (nuclei.types == type_map[rows[:, 0], rows[:, 1]]).all()
    assert nuclei.type_shares.min() > 0.7


def test_the_central_crop_comes_back_as_the_crop_of_the_labels():
    label_map = touching_ellipses(seed=2)
    decoded, _ = decode(*round_trip(label_map, output_size=164))
    assert slow_panoptic_quality(split_pieces(label_map[46:210, 46:210]), decoded) > 0.9


def test_window_free_is_no_worse_than_the_reference_on_real_labels(consep_dir):
    quality = dict.fromkeys(NORMALISATIONS, 0.0)
    for number in (1, 8, 21):
        label_map = loadmat(consep_dir / "Train" / "Labels" / f"train_{number}.mat")["inst_map"][:500, :500]
        label_map = split_pieces(label_map)
        for normalisation in NORMALISATIONS:
            decoded, _ = decode(*round_trip(label_map), normalisation=normalisation)
            quality[normalisation] += slow_panoptic_quality(label_map, decoded) / 3
    assert quality["window_free"] >= quality["reference"] > 0.8
