"""One image or slide: boxes are read, predicted and decoded at the same time; each region gives what it owns."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from dataloader.grid import Region, TileGrid
from dataloader.tissue import Tissue
from models.hovernet.postprocess import leave_out_small
from models.nuclei import Nuclei
from run_utils.inference.maps import Read, predict_boxes
from run_utils.inference.monitor import Monitor
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import Predictor, ProbabilityMaps
from run_utils.outputs import PackedLabels, Part, paint_labels

HALF_PIXEL = 0.5  # from a pixel's index to its middle: cores, masks and outlines are bounded by pixels' edges


class OwnedNuclei(NamedTuple):
    """What one region of a slide gives.

    Attributes:
        nuclei: those that the region owns, in the slide's frame, ids 1…K.
        labels: their pixels.
    """

    nuclei: Nuclei
    labels: PackedLabels


def find_regions(grid: TileGrid, tissue: Tissue | None) -> list[Region]:
    """Return the regions whose core has tissue, row by row."""
    regions = list(grid.regions)
    if tissue is None:
        return regions
    is_tissue = tissue.touches(np.array([region.core_yxyx for region in regions]))
    return [region for region, wanted in zip(regions, is_tissue, strict=True) if wanted]


def stream_regions(
    read: Read,
    grid: TileGrid,
    regions: Sequence[Region],
    predictor: Predictor,
    plan: Plan,
    *,
    tissue: Tissue | None = None,
    monitor: Monitor | None = None,
) -> Generator[OwnedNuclei, None, None]:
    """Give each region's nuclei, in order; reading, prediction and decoding of several regions overlap.

    A nucleus belongs to the region whose core holds its centroid, and is kept where tissue holds that point:
    so neither grid nor windows decide which nuclei there are. At most ``plan.most_regions`` regions'
    maps are held, and strips of twice the halo along those that are done.

    Args:
        read: gives (h, w, 3) uint8 RGB for a half-open box within the image; called from threads.
        grid: how the image is cut into regions.
        regions: those to do.
        predictor: gives the maps.
        plan: how to cut up and decode regions.
        tissue: where to look; None for everywhere.
        monitor: counts tiles and seconds.

    Raises:
        Exception: the first that reading, prediction or decoding met; work in flight is dropped.
    """
    monitor = monitor or Monitor()

    def decode_region(region: Region, maps: ProbabilityMaps) -> OwnedNuclei:
        with monitor.stage("decode"):
            return own_nuclei(maps, region, grid, plan, tissue)

    boxes = (region.box_yxyx for region in regions)
    predicted = predict_boxes(read, grid.shape, boxes, predictor, plan, tissue=tissue, monitor=monitor)
    decoders = ThreadPoolExecutor(plan.decode_workers, thread_name_prefix="decode")
    decoded: deque[Future[OwnedNuclei]] = deque()
    try:
        for region, maps in zip(regions, predicted, strict=True):
            decoded.append(decoders.submit(decode_region, region, maps))
            del maps  # held by its decoder alone
            while decoded and (len(decoded) > plan.decode_workers or decoded[0].done()):
                with monitor.stage("wait for decoding"):
                    owned = decoded.popleft().result()
                yield owned
        while decoded:
            yield decoded.popleft().result()
    finally:
        predicted.close()
        decoders.shutdown(cancel_futures=True)


def own_nuclei(
    maps: ProbabilityMaps, region: Region, grid: TileGrid, plan: Plan, tissue: Tissue | None = None
) -> OwnedNuclei:
    """Decode a region's maps and keep the nuclei whose centroid lies in its core, and on tissue."""
    label_map, nuclei = plan.decode(maps.nuclei, maps.hv, maps.types, **plan.decoding)
    if plan.min_areas:
        label_map, nuclei = leave_out_small(label_map, nuclei, plan.min_areas)
    corner = region.box_yxyx[:2]
    nuclei = nuclei.shift(corner)
    centres = nuclei.centroids + HALF_PIXEL
    is_own = grid.owner(centres) == region.index
    if tissue is not None:
        is_own &= tissue.holds(centres)
    table = np.where(np.insert(is_own, 0, False), np.cumsum(np.insert(is_own, 0, False)), 0).astype(np.int32)
    return OwnedNuclei(nuclei.select(is_own).renumber(), PackedLabels.pack(table[label_map], corner))


def number_parts(
    owned: Iterator[OwnedNuclei], regions: Sequence[Region], grid: TileGrid, halo: int
) -> Iterator[Part]:
    """Number the nuclei of regions one after another, and say how far down the slide is complete."""
    num_nuclei = 0
    for index, (nuclei, labels) in enumerate(owned):
        is_last = index + 1 == len(regions)
        complete_to = grid.shape[0] if is_last else max(0, regions[index + 1].core_yxyx[0] - halo)
        yield Part(nuclei.renumber(num_nuclei + 1), labels, complete_to)
        num_nuclei += len(nuclei)


def infer_image(
    read: Read, shape: tuple[int, int], predictor: Predictor, plan: Plan, *, tissue: Tissue | None = None
) -> tuple[np.ndarray, Nuclei]:
    """Find the nuclei of an image that fits into memory, its border included.

    Args:
        read: gives (h, w, 3) uint8 RGB for a half-open box within the image; called from threads.
        shape: (H, W) of the image in pixels.
        predictor: gives the maps.
        plan: how to cut it up.
        tissue: where to look; None for everywhere.

    Returns:
        label map (H, W) int32 and its nuclei, ids 1…K in both.
    """
    grid = plan.cut_regions(shape, predictor.geometry)
    regions = find_regions(grid, tissue)
    label_map = np.zeros(shape, np.int32)
    tables = [Nuclei.empty(predictor.num_types)]
    owned = stream_regions(read, grid, regions, predictor, plan, tissue=tissue)
    for part in number_parts(owned, regions, grid, plan.halo):
        paint_labels(label_map, part)
        tables.append(part.nuclei)
    return label_map, Nuclei.concatenate(tables)
