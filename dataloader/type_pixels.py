"""How many pixels of each type lie in the centre of a patch: what sampling and class weights go by."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def count_types(type_maps: Iterable[np.ndarray], num_types: int, side: int) -> np.ndarray:
    """Count types in the central squares of patches.

    Args:
        type_maps: (S, S) uint8 each, may be a generator.
        num_types: T, background included; types from there on are not counted.
        side: of the central square in pixels, at most S: the step that patches were cut with. Those squares tile an
            image, so that its pixels count once, and hold about what a network gives types for.

    Returns:
        (P, T) int64; (0, T) for none.
    """
    rows = [_count_centre(type_map, num_types, side) for type_map in type_maps]
    return np.array(rows, np.int64).reshape(len(rows), num_types)


def _count_centre(type_map: np.ndarray, num_types: int, side: int) -> np.ndarray:
    first = (len(type_map) - side) // 2
    centre = type_map[first : first + side, first : first + side]
    return np.bincount(centre.reshape(-1), minlength=num_types)[:num_types]
