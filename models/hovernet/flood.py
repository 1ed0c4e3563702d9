"""Grow markers over their blobs by a watershed, nearly all of it without a queue; ``postprocess`` asks for it.

A flood takes pixels in the order of their depth, and of their arrival where depths are equal; each goes to the
neighbour that is flooded first. Where the lowest neighbour of a pixel is lower than its others and than itself,
and so on down to a marker, no other water can come first: the pixel is that marker's, and is flooded when the
water stands at its depth. So labels run up steepest descents, whole arrays at a time. A hollow without a marker
fills at once to the level of the lowest way in, which a minimum spanning tree of hollows knows, and has the
label of the water that comes in. A queue is left with exact ties.

Pixels are flat indices into maps with a frame of one pixel, so that each has four neighbours.
"""

from __future__ import annotations

import heapq
import itertools

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree


def flood(label_map: np.ndarray, is_open: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Give every open pixel to the marker whose water reaches it first, through its four neighbours.

    Args:
        label_map: (H, W) int32, ids of markers, and of whatever no open pixel touches; 0 elsewhere.
        is_open: (H, W) bool, the pixels to give away, 0 in ``label_map``; each connected to a marker.
        depth: (H, W) float64, finite; the lowest are flooded first.

    Returns:
        (H, W) int32, ``label_map`` with the open pixels labelled.
    """
    framed = cv2.copyMakeBorder(label_map, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    labels, width = framed.ravel(), framed.shape[1]
    depths = np.full(framed.shape, np.inf)
    np.copyto(depths[1:-1, 1:-1], depth, where=is_open | (label_map > 0))
    depths = depths.ravel()
    y, x = np.divmod(np.flatnonzero(is_open), label_map.shape[1])
    pixels = (y + 1) * width + x + 1
    bottoms = _follow_descents(pixels, labels, depths, width)
    left = pixels[labels[pixels] == 0]
    if len(left):
        _fill_hollows(left, bottoms[labels[pixels] == 0], labels, depths, width)
        _label_lakes(left, labels, depths, width)
        left = left[labels[left] == 0]
    if len(left):
        _flood_by_queue(left, labels, depths, width)
    return framed[1:-1, 1:-1].copy()


def _follow_descents(pixels: np.ndarray, labels: np.ndarray, depths: np.ndarray, width: int) -> np.ndarray:
    """Label, in place, the pixels whose descent ends at a marker; return the (P,) index in them where each ends.

    A descent goes on while one neighbour is lower than the others and than the pixel.
    """
    lowest, second = np.full((2, len(pixels)), np.inf)
    targets = pixels
    for step in _steps(width):
        neighbours = pixels + step
        heights = depths[neighbours]
        targets = np.where(heights < lowest, neighbours, targets)
        np.minimum(second, np.maximum(heights, lowest), out=second)
        np.minimum(lowest, heights, out=lowest)
    targets = np.where((lowest < second) & (lowest < depths[pixels]), targets, pixels)
    found = labels[targets]
    position = np.empty(labels.size, np.int32)
    position[pixels] = np.arange(len(pixels), dtype=np.int32)
    lower = np.where(found > 0, np.arange(len(pixels)), position[targets])
    bottoms = lower[lower]
    while not np.array_equal(bottoms, lower):
        lower, bottoms = bottoms, bottoms[bottoms]
    labels[pixels] = found[bottoms]
    return bottoms


def _fill_hollows(
    left: np.ndarray, bottoms: np.ndarray, labels: np.ndarray, depths: np.ndarray, width: int
) -> None:
    """Raise ``depths`` of the pixels ``left`` to the level of the water that comes in, in place.

    ``bottoms``: (P,) where each descent ends; the pixels of one hollow share it. All with a label are hollow 0.
    """
    hollow = np.zeros(depths.size, np.int32)
    bottoms, inverse = np.unique(bottoms, return_inverse=True)
    hollow[left] = inverse + 1
    num_hollows = len(bottoms) + 1
    neighbours = left + _steps(width)[:, None]
    passes = np.maximum(depths[neighbours], depths[left])
    ends = np.stack([np.broadcast_to(hollow[left], passes.shape), hollow[neighbours]])
    is_pass = (ends[0] != ends[1]) & np.isfinite(passes)
    order = np.argsort(passes[is_pass])
    passes, ends = passes[is_pass][order], np.sort(ends[:, is_pass][:, order], axis=0)
    _, first = np.unique(ends[0] * np.int64(num_hollows) + ends[1], return_index=True)
    ranks = coo_array((first + 1.0, (ends[0][first], ends[1][first])), shape=(num_hollows, num_hollows))
    tree = minimum_spanning_tree(ranks.tocsr()).tocoo()
    nodes, before = breadth_first_order(tree.tocsr(), 0, directed=False)
    levels = np.full(num_hollows, -np.inf)
    levels[np.where(before[tree.col] == tree.row, tree.col, tree.row)] = passes[tree.data.astype(int) - 1]
    for node in nodes[1:]:
        levels[node] = max(levels[node], levels[before[node]])
    depths[left] = np.maximum(depths[left], levels[hollow[left]])


def _label_lakes(left: np.ndarray, labels: np.ndarray, depths: np.ndarray, width: int) -> None:
    """Label, in place, what gets water of one label alone: a pixel from its lowest neighbours, or their lake."""
    position = np.zeros(labels.size, np.int32)
    position[left] = np.arange(len(left), dtype=np.int32)
    neighbours = left + _steps(width)[:, None]
    heights = depths[neighbours]
    which, rows = np.nonzero(heights == heights.min(axis=0))
    sources = neighbours[which, rows]
    found = labels[sources]
    is_lake = found == 0
    joined = (np.ones(is_lake.sum(), bool), (rows[is_lake], position[sources[is_lake]]))
    num_lakes, lake = connected_components(coo_array(joined, shape=(len(left), len(left))), directed=False)
    least, most = np.full(num_lakes, np.iinfo(np.int32).max, np.int32), np.zeros(num_lakes, np.int32)
    np.minimum.at(least, lake[rows[~is_lake]], found[~is_lake])
    np.maximum.at(most, lake[rows[~is_lake]], found[~is_lake])
    labels[left] = np.where(least == most, most, 0)[lake]


def _flood_by_queue(left: np.ndarray, labels: np.ndarray, depths: np.ndarray, width: int) -> None:
    """Flood the pixels ``left`` from the labelled ones around them, in place.

    The queue is ordered by the water's height at a pixel, hollows being filled, then by its height when the
    pixel was reached.
    """
    around = np.unique(left + _steps(width)[:, None])
    shore = around[labels[around] > 0]
    beside = shore + _steps(width)[:, None]
    reached_at = np.where(labels[beside] > 0, depths[beside], np.inf).min(axis=0)
    nodes = np.concatenate([shore, left])
    position = np.full(labels.size, -1, np.int32)
    position[nodes] = np.arange(len(nodes), dtype=np.int32)
    neighbours = position[nodes[:, None] + _steps(width)].tolist()
    label_of = [*labels[nodes].tolist(), -1]  # the last stands for neighbours that are no nodes
    depth_of = depths[nodes].tolist()
    queue = list(zip(depth_of, reached_at.tolist(), range(len(shore)), range(len(shore)), strict=False))
    heapq.heapify(queue)
    arrival = itertools.count(len(shore))
    while queue:
        height, _, _, node = heapq.heappop(queue)
        for neighbour in neighbours[node]:
            if not label_of[neighbour]:
                label_of[neighbour] = label_of[node]
                heapq.heappush(queue, (depth_of[neighbour], height, next(arrival), neighbour))
    labels[nodes] = label_of[:-1]


def _steps(width: int) -> np.ndarray:
    """Return the steps to the neighbours above, left, right and below, in a flat map of rows of ``width``."""
    return np.array([-width, -1, 1, width])
