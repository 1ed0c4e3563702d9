"""Where to look on a slide: the tissue of a mask, within outlines; inference asks `Tissue` box by box."""

from __future__ import annotations

from threading import Lock

import cv2
import numpy as np
import shapely

from dataloader.overview import overview_mpp, read_overview
from dataloader.tissue_colour import find_tissue
from dataloader.tissue_mask import find_mask, read_mask

__all__ = ["Tissue", "find_mask", "find_tissue", "overview_mpp", "read_mask", "read_overview"]

OUTLINE_CELLS = 512  # along the longer side of the grid on which outlines without a mask are drawn

Shape = tuple[int, int]


class Tissue:
    """The part of a slide that is looked at: the tissue of a mask, within outlines.

    Cell (i, j) of an (h, w) mask covers rows [i * H / h, (i + 1) * H / h) of the slide, columns alike. A point
    that is held lies only in boxes that are touched. Threads may share it.

    Attributes:
        shape: (H, W) of the slide in pixels at the working resolution.
        mask: (h, w) bool, the cells of which some part is looked at; None for everywhere.
        area: what is looked at, in square pixels at the working resolution.
    """

    def __init__(
        self, shape: Shape, mask: np.ndarray | None = None, outlines: shapely.Geometry | None = None
    ) -> None:
        """Prepare for questions.

        Args:
            shape: (H, W) of the slide in pixels at the working resolution.
            mask: (h, w) bool of the whole slide, not empty, of any size; None where all of it is tissue.
            outlines: polygons in (x, y) pixels at the working resolution; None where they set no bounds.
        """
        self.shape = shape
        self.mask = mask
        self.area = float(shape[0] * shape[1])
        self._outlines = None if outlines is None else _clip(outlines, shape)
        self._lock = Lock()  # GEOS indexes a prepared geometry at its first use, unguarded
        if self._outlines is not None:
            shapely.prepare(self._outlines)
            self.mask, self.area = self._cut(np.ones(_outline_grid(shape), bool) if mask is None else mask)
        elif mask is not None:
            self.area *= float(mask.mean())
        if self.mask is not None:
            self._counts = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int32)
            np.cumsum(self.mask.cumsum(0, dtype=np.int32), 1, dtype=np.int32, out=self._counts[1:, 1:])

    @property
    def area_fraction(self) -> float:
        """``area`` as a share of the slide, 0..1."""
        return self.area / (self.shape[0] * self.shape[1])

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look at."""
        return self.area == 0

    def touches(self, boxes_yxyx: np.ndarray, *, reach: int = 0) -> np.ndarray:
        """Return which boxes have tissue.

        A cell of the mask counts where a box overlaps it in part: tissue may lie just beside a touched box.

        Args:
            boxes_yxyx: (N, 4) integer, half-open, in pixels at the working resolution; outside of the slide is
                no tissue.
            reach: pixels by which each box is grown on all sides first.

        Returns:
            (N,) bool; an empty box is not touched.
        """
        boxes = np.asarray(boxes_yxyx, np.int64).reshape(-1, 4) + np.array([-reach, -reach, reach, reach])
        boxes = np.clip(boxes, 0, np.array(self.shape * 2))
        touched = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
        if self.mask is None:
            return touched
        cells, pixels = np.array(self.mask.shape), np.array(self.shape)
        top, left = (boxes[:, :2] * cells // pixels).T
        bottom, right = -(-boxes[:, 2:] * cells // pixels).T
        counts = self._counts
        touched &= counts[bottom, right] - counts[top, right] - counts[bottom, left] + counts[top, left] > 0
        if self._outlines is not None:
            touched[touched] = self._meets_outlines(boxes[touched])
        return touched

    def holds(self, points_yx: np.ndarray) -> np.ndarray:
        """Return which points lie on tissue: in a cell that is tissue, and inside the outlines.

        Args:
            points_yx: (K, 2) (y, x) in the frame of boxes: a box has the rows top <= y < bottom.

        Returns:
            (K,) bool; outside of the slide is no tissue.
        """
        points = np.asarray(points_yx, np.float64).reshape(-1, 2)
        held = np.all((points >= 0) & (points < self.shape), axis=1)
        if self.mask is None:
            return held
        cells = points[held] * self.mask.shape / self.shape  # rounding leads no point past its cell's end
        rows, columns = cells.astype(np.int64).T
        held[held] = self.mask[rows, columns]
        if self._outlines is not None:
            with self._lock:
                held[held] = shapely.contains_xy(self._outlines, points[held, 1], points[held, 0])
        return held

    def _cut(self, mask: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the cells of ``mask`` of which some part lies within the outlines, and the area within; exact."""
        cell = np.array(self.shape) / mask.shape
        y, x = ((np.arange(num_cells) + 0.5) * side for num_cells, side in zip(mask.shape, cell, strict=True))
        border = mask & self._draw_border(mask.shape)
        inner = mask & ~border
        inner &= shapely.contains_xy(self._outlines, x[None, :], y[:, None])
        corners = np.argwhere(border)
        border[border] = self._meets_outlines(np.concatenate([corners, corners + 1], 1) * np.tile(cell, 2))
        cut = shapely.intersection(_boxes(_find_runs(border) * np.tile(cell, 2)), self._outlines)
        return inner | border, float(inner.sum() * cell.prod() + shapely.area(cut).sum())

    def _draw_border(self, grid: Shape) -> np.ndarray:
        """Return ``grid`` bool: every cell that the outlines' border crosses, and some beside it."""
        drawn = np.zeros(grid, np.uint8)
        cell = np.array(self.shape) / grid
        steps = shapely.segmentize(shapely.boundary(self._outlines), cell.min())
        corners = shapely.get_coordinates(steps)[:, ::-1]
        rows, columns = np.clip(corners // cell, 0, np.array(grid) - 1).astype(np.int64).T
        drawn[rows, columns] = 1
        return cv2.dilate(drawn, np.ones((3, 3), np.uint8)).astype(bool)

    def _meets_outlines(self, boxes_yxyx: np.ndarray) -> np.ndarray:
        """Return which (N, 4) boxes share more with the outlines than their border."""
        with self._lock:
            inside = np.nextafter(boxes_yxyx, [np.inf, np.inf, -np.inf, -np.inf])
            return shapely.intersects(self._outlines, _boxes(inside))


def _clip(outlines: shapely.Geometry, shape: Shape) -> shapely.Geometry:
    """Return outlines without what lies more than a pixel outside of a slide of ``shape``; never lines or points."""
    parts = shapely.get_parts(shapely.intersection(outlines, shapely.box(-1, -1, shape[1] + 1, shape[0] + 1)))
    return shapely.union_all(parts[shapely.get_dimensions(parts) == 2])


def _outline_grid(shape: Shape) -> Shape:
    """Return the shape of a grid of about square cells, none smaller than a pixel, for a slide of ``shape``."""
    cell = max(max(shape) / OUTLINE_CELLS, 1.0)
    return max(1, round(shape[0] / cell)), max(1, round(shape[1] / cell))


def _find_runs(mask: np.ndarray) -> np.ndarray:
    """Return (N, 4) half-open boxes, in cells, of the runs of True cells in each row."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    return np.concatenate([np.argwhere(steps == 1), np.argwhere(steps == -1) + (1, 0)], 1)


def _boxes(boxes_yxyx: np.ndarray) -> np.ndarray:
    """Return (N, 4) boxes as polygons."""
    top, left, bottom, right = np.asarray(boxes_yxyx, np.float64).T
    return shapely.box(left, top, right, bottom)
