"""Encode label maps as what the network learns: nuclei, HV maps, types; ``postprocess`` is the way back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from skimage import measure
from torch import Tensor

from models.hovernet.channels import BACKGROUND, HORIZONTAL, VERTICAL

LEGACY_MIN_SIZE = 30
"""Pixels of the cropped patch below which the reference leaves a nucleus without HV values."""

LEGACY_BOX_MARGIN = 2
"""Pixels the reference adds around a nucleus's box; nearer to the top or left edge it skips the nucleus."""

SPARE_BINS = 1 << 16
"""Bins a table by id may have beyond one a pixel, before ids are compacted."""


class Targets(NamedTuple):
    """What a batch of patches should come out as.

    Attributes:
        nuclei: (N, h, w) int64, 1 on nuclei, 0 on background.
        hv: (N, 2, h, w) float32 in -1..1, horizontal and vertical distance to the centre of mass; else 0.
        types: (N, h, w) int64 types, 0 background, or None.
    """

    nuclei: Tensor
    hv: Tensor
    types: Tensor | None


def make_targets(
    label_map: Tensor,
    type_map: Tensor | None = None,
    output_size: int | None = None,
    *,
    legacy: bool = False,
    max_id: int | None = None,
) -> Targets:
    """Encode label maps, on their device.

    Centres and extents are those of the nucleus in the whole patch, also where the output crops it. Offsets
    from the centre of mass are divided, on each side of it, by the largest on that side (Graham et al. 2019).
    An id is one nucleus, in however many pieces it lies: mirrored patches go through ``split_pieces`` before.

    Args:
        label_map: (N, H, W) integer, 0 background; ids may have gaps, and recur in other patches.
        type_map: (N, H, W) integer types, 0 background.
        output_size: height and width in pixels of the central part that the network predicts; None for all.
        legacy: reproduce the reference's targets: centres rounded, zero one pixel to the left and above, no
            HV values for nuclei of under 30 px in the output or within 2 px of the patch's top or left edge.
        max_id: a bound that no id exceeds, where the caller knows one; on a GPU nothing then waits for the device.

    Returns:
        Targets; all zero where the map holds no nucleus.

    Raises:
        ValueError: for maps not integer (N, H, W), of differing shapes or smaller than ``output_size``, and
            for negative ids.
    """
    _check(label_map, type_map, output_size)
    nuclei = _centre_crop(label_map, output_size) > BACKGROUND
    keys, num_keys = _unique_keys(label_map.long(), max_id)
    keys_out = _centre_crop(keys, output_size).contiguous()
    hv = _encode_hv(keys, keys_out, num_keys, legacy=legacy)
    types = None if type_map is None else _centre_crop(type_map, output_size).long()
    return Targets(nuclei.long(), hv, types)


def split_pieces(label_map: np.ndarray) -> np.ndarray:
    """Give each connected piece of an id an id of its own, as nuclei cut by a crop or mirrored need.

    Args:
        label_map: (H, W) integer, 0 background.

    Returns:
        (H, W) int32, 0 background, pieces 1…K in reading order; pixels are neighbours along rows and columns.
    """
    pieces: np.ndarray = measure.label(label_map, background=BACKGROUND, connectivity=1)
    return pieces.astype(np.int32, copy=False)


def _check(label_map: Tensor, type_map: Tensor | None, output_size: int | None) -> None:
    if label_map.ndim != 3 or label_map.is_floating_point() or label_map.numel() == 0:
        raise ValueError(
            f"label_map is {tuple(label_map.shape)} {label_map.dtype}, but must be (N, H, W) integer with "
            "at least one pixel; add the batch axis with label_map[None]"
        )
    if type_map is not None and (type_map.shape != label_map.shape or type_map.is_floating_point()):
        raise ValueError(
            f"type_map is {tuple(type_map.shape)} {type_map.dtype}, but must be integer of label_map's shape "
            f"{tuple(label_map.shape)}; cut both from the same patch"
        )
    if output_size is not None and not 1 <= output_size <= min(label_map.shape[1:]):
        raise ValueError(
            f"output_size={output_size} does not fit patches of {tuple(label_map.shape[1:])} pixels; "
            "use 1 to the patch's size"
        )


def _centre_crop(maps: Tensor, size: int | None) -> Tensor:
    """Return the central ``size`` x ``size`` of (N, H, W) maps."""
    if size is None:
        return maps
    top, left = ((length - size) // 2 for length in maps.shape[1:])
    return maps[:, top : top + size, left : left + size]


def _unique_keys(label_map: Tensor, max_id: int | None) -> tuple[Tensor, int]:
    """Number nuclei across the batch: (N, H, W) integer keys, 0 for background, and how many."""
    num_patches = len(label_map)
    lowest, highest = (
        (BACKGROUND, max_id) if max_id is not None else torch.stack(label_map.aminmax()).tolist()
    )
    if lowest < BACKGROUND:
        raise ValueError(f"label_map holds {lowest}, but ids start at 1 and background is 0; relabel the map")
    num_ids = highest + 1
    if num_patches * num_ids > label_map.numel() + SPARE_BINS:
        ids, label_map = torch.unique(label_map, return_inverse=True)
        label_map = label_map + (ids[0] != BACKGROUND)
        num_ids = len(ids) + 1
    if num_patches == 1:
        return label_map, num_ids
    first = torch.arange(num_patches, device=label_map.device).view(-1, 1, 1) * num_ids
    return torch.where(label_map > BACKGROUND, label_map + first, BACKGROUND), num_patches * num_ids


def _encode_hv(keys: Tensor, keys_out: Tensor, num_keys: int, *, legacy: bool) -> Tensor:
    """Return (N, 2, h, w) float32 HV maps of the nuclei in ``keys_out``, measured on all of ``keys``."""
    num_patches, height, width = keys_out.shape
    hv = torch.empty((num_patches, 2, height, width), dtype=torch.float32, device=keys.device)
    is_wanted = _wanted_keys(keys_out, num_keys, legacy=legacy)
    key, y, x = _nuclear_pixels(keys, is_wanted)
    extents = {
        axis: _extent(key, positions, num_keys) for axis, positions in ((VERTICAL, y), (HORIZONTAL, x))
    }
    if legacy:
        for lowest, _ in extents.values():
            is_wanted &= lowest >= LEGACY_BOX_MARGIN
    area = _count(key, num_keys)
    for axis, positions in ((VERTICAL, y), (HORIZONTAL, x)):
        total = torch.zeros_like(area).index_add_(0, key, positions)
        scale, centre = _legacy_centres(area, total) if legacy else (area, total)
        lines = _Lines.of(scale * is_wanted, centre * is_wanted, extents[axis])
        hv[:, axis] = lines.at(keys_out, _output_positions(keys, keys_out, axis))
    return hv


def _wanted_keys(keys_out: Tensor, num_keys: int, *, legacy: bool) -> Tensor:
    """Return (num_keys,) bool, true for the nuclei that the output shows (``legacy``: at least 30 px of)."""
    if legacy:
        is_wanted = _count(keys_out.flatten(), num_keys) >= LEGACY_MIN_SIZE
    else:
        is_wanted = torch.zeros(num_keys, dtype=torch.bool, device=keys_out.device)
        is_wanted.index_fill_(0, keys_out.flatten(), True)
    is_wanted.narrow(0, BACKGROUND, 1).zero_()  # an assignment would wait for the device
    return is_wanted


def _nuclear_pixels(keys: Tensor, is_wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return key, row and column, each (P,) int64, of P pixels, among them all of the wanted nuclei."""
    # index_select takes a seventh of the time of is_wanted[flat] on a CPU.
    flat = keys.flatten()
    is_nuclear = is_wanted.index_select(0, flat)
    if _is_on_host(flat):
        pixels = is_nuclear.nonzero().squeeze(1)
        key = flat.index_select(0, pixels)
    else:  # nonzero would wait for the device; there all pixels cost little, unwanted ones as background
        pixels = torch.arange(len(flat), device=flat.device)
        key = torch.where(is_nuclear, flat, BACKGROUND)
    rows = pixels // keys.shape[2]
    return key, rows % keys.shape[1], pixels - rows * keys.shape[2]


def _is_on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _count(key: Tensor, num_keys: int) -> Tensor:
    """Count each key, (num_keys,) int64; unlike bincount it never waits for the device."""
    return key.new_zeros(num_keys).index_add_(0, key, torch.ones_like(key))


def _extent(key: Tensor, positions: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest position of each key, (num_keys,) int64; any where it has none."""
    lowest = positions.new_full((num_keys,), torch.iinfo(torch.int32).max)
    highest = positions.new_zeros(num_keys)
    return lowest.scatter_reduce(0, key, positions, "amin"), highest.scatter_reduce(0, key, positions, "amax")


def _legacy_centres(area: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and centre for rounded centres of mass and positions that the reference counts from 1."""
    rounded = (2 * total + area).div((2 * area).clamp(min=1), rounding_mode="floor")
    return torch.ones_like(area), rounded - 1


class _Lines(NamedTuple):
    """One coordinate of K nuclei: ``scale * position - centre`` over the length of the side it falls on.

    With a nucleus's area for scale and the sum of its positions for centre this is the offset from the centre
    of mass, exact in integers: the area cancels in the division.
    """

    scale: Tensor
    centre: Tensor
    below: Tensor
    above: Tensor

    @staticmethod
    def of(scale: Tensor, centre: Tensor, extent: tuple[Tensor, Tensor]) -> _Lines:
        lowest, highest = extent
        below = (centre - scale * lowest).clamp(min=1)
        above = (scale * highest - centre).clamp(min=1)
        return _Lines(scale, centre, below, above)

    def at(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Return the coordinate in -1..1 of every pixel of (N, h, w) ``keys``, float32."""
        flat = keys.flatten()
        scale, centre, below, above = (column.index_select(0, flat).view_as(keys) for column in self)
        offset = scale * positions - centre
        return offset.float() / torch.where(offset < 0, below, above).float()


def _output_positions(keys: Tensor, keys_out: Tensor, axis: int) -> Tensor:
    """Return the output's rows or columns in the patch's frame, to broadcast against (N, h, w)."""
    dim = 1 if axis == VERTICAL else 2
    first = (keys.shape[dim] - keys_out.shape[dim]) // 2
    positions = torch.arange(first, first + keys_out.shape[dim], device=keys.device)
    return positions.view(1, -1, 1) if axis == VERTICAL else positions
