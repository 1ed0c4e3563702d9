"""Panoptic quality against the size of nuclei: how large they must be to be found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metrics.bootstrap import Label, Statistic
from metrics.matches import Matches
from metrics.panoptic import panoptic_of_counts

NUM_BINS = 5  # each with a fifth of the true nuclei


def size_edges(true_areas: np.ndarray) -> np.ndarray:
    """Return the inner edges (B - 1,) that part true areas (K,), pixels, into up to five bins of equal numbers.

    A bin holds the areas from its lower edge on, below its upper edge. Without nuclei there is one bin.
    """
    if not len(true_areas):
        return np.zeros(0)
    edges = np.quantile(true_areas, np.linspace(0, 1, NUM_BINS + 1)[1:-1], method="higher")
    return np.unique(edges[edges > true_areas.min()])


def count_sizes(matches: Matches, edges: np.ndarray) -> np.ndarray:
    """Return (B, 4) counts of one image, TP, FP, FN and the sum of IoU, of the nuclei of each bin of sizes.

    A match and a missed nucleus count by the true area, one without a match by its predicted area.
    """
    num_bins = len(edges) + 1
    true_bins = np.searchsorted(edges, matches.true_areas, side="right")
    is_invented = np.ones(len(matches.predicted_areas), bool)
    is_invented[matches.columns] = False
    invented = np.searchsorted(edges, matches.predicted_areas[is_invented], side="right")
    tp = np.bincount(true_bins[matches.rows], minlength=num_bins)
    iou_sums = np.bincount(true_bins[matches.rows], weights=matches.ious, minlength=num_bins)
    fp = np.bincount(invented, minlength=num_bins)
    fn = np.bincount(true_bins, minlength=num_bins) - tp
    return np.stack([tp, fp, fn, iou_sums], axis=-1)


def size_statistic(counts: np.ndarray, edges: np.ndarray) -> Statistic:
    """Return PQ of each bin of sizes, its counts pooled over images.

    Args:
        counts: (N, B, 4) of each image and bin.
        edges: (B - 1,) between the bins, pixels.
    """
    labels = [Label("PQ", name) for name in size_names(edges.tolist())]
    features = counts.reshape(len(counts), -1).astype(np.float64)
    return Statistic(labels, features, lambda sums: panoptic_of_counts(sums.reshape(len(sums), -1, 4)))


def size_names(edges: Sequence[float]) -> list[str]:
    """Return what bins are called: "below 50 px", "50 to 79 px", …, "from 120 px"; "any size" where there is one."""
    if not edges:
        return ["any size"]
    inner = [f"{low:g} to {high - 1:g} px" for low, high in zip(edges, edges[1:], strict=False)]
    return [f"below {edges[0]:g} px", *inner, f"from {edges[-1]:g} px"]
