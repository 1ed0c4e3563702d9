"""Pixels spread over the tissue of a slide, for what is fitted on it once and before it is worked on: its stain."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dataloader.grid import Box
from dataloader.overview import num_read_threads, overview_mpp, read_overview
from dataloader.slides import Slide
from dataloader.tissue import Tissue, find_tissue

NUM_SQUARES, SQUARE_SIDE = 128, 192
"""Read of a slide, pixels a side: 4.7 Mpx, of which a fit takes a million."""
CELLS = 64
"""Along each side of the grid on which squares are placed where no mask says where tissue is."""
_SEED = 0


def sample_slide(slide: Slide, overview: np.ndarray | None = None) -> np.ndarray:
    """Return (N, h, w, 3) uint8 squares of a slide's own tissue, level 0; an image of few pixels comes whole.

    Args:
        slide: what to read.
        overview: its (h, w, 3) uint8 RGB overview, where that has been read already.
    """
    tissue = None
    if not _is_small(slide.shape_level0):
        overview = read_overview(slide) if overview is None else overview
        tissue = Tissue(slide.shape_level0, find_tissue(overview, overview_mpp(slide, overview)))
    return sample_tissue(slide, None, tissue)


def sample_tissue(slide: Slide, mpp: float | None, tissue: Tissue | None) -> np.ndarray:
    """Read squares spread evenly over tissue, the same on every call.

    Args:
        slide: what to read.
        mpp: working resolution; None for level 0 as it is.
        tissue: where to look, in the frame of the working resolution; None for everywhere.

    Returns:
        (N, h, w, 3) uint8 RGB: a slide of at most as many pixels as ``NUM_SQUARES`` squares have as it is, N = 1;
        else so many squares, each around a place that is tissue; N = 0 where there is no tissue.

    Raises:
        SlideError: the file cannot be decoded there.
    """
    shape = slide.working_shape(mpp)
    with ThreadPoolExecutor(num_read_threads(), thread_name_prefix="sample") as threads:
        squares = list(threads.map(lambda box: slide.read(box, mpp), _place_squares(shape, tissue)))
    return np.stack(squares) if squares else np.zeros((0, SQUARE_SIDE, SQUARE_SIDE, 3), np.uint8)


def _place_squares(shape: tuple[int, int], tissue: Tissue | None) -> list[Box]:
    """Return boxes within the image, every so many of the cells that are tissue."""
    if _is_small(shape):
        return [(0, 0, *shape)]
    mask = np.ones((CELLS, CELLS), bool) if tissue is None or tissue.mask is None else tissue.mask
    cells = np.argwhere(mask)
    num = min(NUM_SQUARES, len(cells))
    jitter = np.random.default_rng(_SEED).random(num)  # or the squares would stand in columns
    chosen = cells[((np.arange(num) + jitter) * len(cells) / max(num, 1)).astype(np.int64)]
    centres = ((chosen + 0.5) * shape / mask.shape).astype(np.int64)
    boxes = []
    for centre_yx in centres:
        top, left = (
            max(0, min(int(middle) - SQUARE_SIDE // 2, length - SQUARE_SIDE))
            for middle, length in zip(centre_yx, shape, strict=True)
        )
        boxes.append((top, left, min(top + SQUARE_SIDE, shape[0]), min(left + SQUARE_SIDE, shape[1])))
    return boxes


def _is_small(shape: tuple[int, int]) -> bool:
    return shape[0] * shape[1] <= NUM_SQUARES * SQUARE_SIDE**2
