"""A drawn slide of any size and its nuclei, part by part: what the benchmarks of outputs and viewer share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dataloader.slides import Level, Slide
from models.nuclei import Nuclei, NucleusType
from run_utils.outputs import PackedLabels, Part, SlideResult
from run_utils.outputs.rings import trace_contour

TYPES = (
    NucleusType("background", (128, 128, 128)),
    NucleusType("neoplastic", (255, 85, 0)),
    NucleusType("inflammatory", (255, 225, 25)),
    NucleusType("connective", (0, 125, 60)),
    NucleusType("epithelial", (0, 190, 255)),
)
MPP = 0.25  # µm to a level-0 pixel
NUM_SHAPES = 48
TEXTURE_SIDE = 1024  # pixels; the paper under the nuclei repeats
FINEST_DRAWN = 4  # level-0 pixels to a pixel above which nuclei are no longer drawn one by one


@dataclass(frozen=True)
class DrawnSlide:
    """Nuclei on a jittered grid, one a cell of ``pitch`` pixels, where the tissue's noise lets them be.

    Attributes:
        side: of the slide, level-0 pixels.
        pitch: of the grid.
        centres: (n, n, 2) int32 (y, x) of each cell's nucleus.
        types: (n, n) int32, 0 where the cell is empty.
        shapes: (n, n) int32, which of ``contours`` the nucleus has.
        contours: (P, 2) int32 (y, x) around (0, 0), for each shape.
    """

    side: int
    pitch: int
    centres: np.ndarray
    types: np.ndarray
    shapes: np.ndarray
    contours: tuple[np.ndarray, ...]

    @staticmethod
    def draw(num_nuclei: int, side: int, seed: int = 0) -> DrawnSlide:
        """Draw about ``num_nuclei`` on a slide of ``side`` pixels, most of it covered with tissue."""
        generator = np.random.default_rng(seed)
        pitch = max(18, int(side / np.sqrt(num_nuclei / 0.72)))
        cells = side // pitch
        fields = [_smooth_noise(generator, cells, grain) for grain in (5, 14, 22, 30, 18)]
        types = 1 + np.argmax(fields[1:], axis=0).astype(np.int32)
        types[fields[0] < np.quantile(fields[0], 0.2)] = 0
        types[generator.random(types.shape) < 0.1] = 0
        grid = np.moveaxis(np.indices((cells, cells)), 0, -1) * pitch + pitch // 2
        centres = grid + generator.integers(-pitch // 6, pitch // 6 + 1, grid.shape)
        return DrawnSlide(
            side=side,
            pitch=pitch,
            centres=centres.astype(np.int32),
            types=types,
            shapes=generator.integers(0, NUM_SHAPES, types.shape).astype(np.int32),
            contours=tuple(_shape(generator, min(pitch // 2 - 2, 13)) for _ in range(NUM_SHAPES)),
        )

    def result(self, rows_per_part: int = 64) -> SlideResult:
        """Return the slide's nuclei as inference hands them to the writers, without their pixels."""
        return SlideResult(
            name="drawn slide",
            shape=(self.side, self.side),
            read=lambda box: paint(self, box, 1),
            parts=lambda: self._parts(rows_per_part),
            mpp=MPP,
            types=TYPES,
        )

    def slide(self) -> Slide:
        """Return the slide, painted as it is read."""
        return Slide(DrawnReader(self))

    def _parts(self, rows_per_part: int) -> Iterator[Part]:
        first = 1
        for top in range(0, len(self.types), rows_per_part):
            nuclei = self._nuclei(slice(top, top + rows_per_part), first)
            first += len(nuclei)
            box = (top * self.pitch, 0, top * self.pitch, 0)
            yield Part(nuclei, PackedLabels(box, False, b""), top * self.pitch)

    def _nuclei(self, rows: slice, first: int) -> Nuclei:
        is_there = self.types[rows] > 0
        centres, types = self.centres[rows][is_there], self.types[rows][is_there]
        contours = [self.contours[shape] for shape in self.shapes[rows][is_there]]
        lengths = [len(contour) for contour in contours]
        points = np.concatenate([np.zeros((0, 2), np.int32), *contours]) + np.repeat(centres, lengths, axis=0)
        probabilities = np.full((len(types), len(TYPES)), 0.05, np.float32)
        probabilities[np.arange(len(types)), types] = 0.6 + 0.2 * (np.arange(len(types)) % 7) / 6
        return Nuclei(
            ids=np.arange(first, first + len(types), dtype=np.int32),
            boxes_yxyx=np.array([(*c.min(0), *(c.max(0) + 1)) for c in self.contours], np.int32)[
                self.shapes[rows][is_there]
            ]
            + np.tile(centres, 2),
            centroids=centres.astype(np.float64),
            contour_points=points.astype(np.int32),
            contour_starts=np.cumsum([0, *lengths]).astype(np.int64),
            types=types,
            type_shares=probabilities.max(axis=1),
            type_probabilities=probabilities,
        )


class DrawnReader:
    """Levels of a drawn slide, each half as fine as the one before."""

    def __init__(self, drawn: DrawnSlide):
        """Offer levels down to 256 pixels."""
        self.path = Path("drawn slide")
        self.origin_level0 = (0, 0)
        self.mpp: float | None = MPP
        self.levels = tuple(
            Level((drawn.side // 2**k, drawn.side // 2**k), float(2**k))
            for k in range(max(1, (drawn.side // 256).bit_length()))
        )
        self._drawn = drawn

    def read_level(self, level: int, box_yxyx: tuple[int, int, int, int]) -> np.ndarray:
        """Return (h, w, 3) uint8 RGB of a box in the level's pixels."""
        return paint(self._drawn, box_yxyx, 2**level)

    def close(self) -> None:
        """Hold nothing."""


def paint(drawn: DrawnSlide, box: tuple[int, int, int, int], downsample: int) -> np.ndarray:
    """Return (h, w, 3) uint8 RGB: nuclei on noisy pink; coarse levels show how many there are."""
    top, left, bottom, right = (side * downsample for side in box)
    size = (box[2] - box[0], box[3] - box[1])
    low = np.maximum((top, left), drawn.pitch) // drawn.pitch - 1
    rows = slice(low[0], bottom // drawn.pitch + 2)
    columns = slice(low[1], right // drawn.pitch + 2)
    if downsample > FINEST_DRAWN:
        return _paint_coarse(drawn, box, downsample)
    image = _paper(box, size, downsample)
    is_there = drawn.types[rows, columns] > 0
    centres = drawn.centres[rows, columns][is_there]
    for centre, shape in zip(centres, drawn.shapes[rows, columns][is_there], strict=True):
        points = (drawn.contours[shape] + centre - (top, left) + 0.5) * (16 / downsample) - 8
        shade = 100 + 4 * int(shape % 9)
        cv2.fillPoly(
            image,
            [np.rint(points[:, ::-1]).astype(np.int32)],
            (shade, shade - 50, shade + 50),
            cv2.LINE_AA,
            4,
        )
    return image


def _paint_coarse(drawn: DrawnSlide, box: tuple[int, int, int, int], downsample: int) -> np.ndarray:
    side = drawn.side // downsample
    share = cv2.resize((drawn.types > 0).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    share = share[box[0] : box[2], box[1] : box[3], None]
    return (np.array((243, 238, 242)) - share * np.array((45, 95, 45))).astype(np.uint8)


def _paper(box: tuple[int, int, int, int], size: tuple[int, int], downsample: int) -> np.ndarray:
    """Return the pink under the nuclei."""
    noise = _smooth_noise(np.random.default_rng(1), TEXTURE_SIDE, 90)
    texture = np.array((232, 196, 216)) + noise[..., None] * np.array((7, 16, 9))
    y = (np.arange(box[0], box[0] + size[0]) * downsample) % TEXTURE_SIDE
    x = (np.arange(box[1], box[1] + size[1]) * downsample) % TEXTURE_SIDE
    return np.clip(texture[np.ix_(y, x)], 0, 255).astype(np.uint8)


def _smooth_noise(generator: np.random.Generator, side: int, grain: int) -> np.ndarray:
    """Return (side, side) float noise of mean 0 and deviation 1 with about ``grain`` waves across."""
    coarse = generator.normal(size=(grain, grain)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def _shape(generator: np.random.Generator, radius: int) -> np.ndarray:
    """Return the contour of an ellipse around (0, 0), through its border pixels' centres."""
    mask = np.zeros((2 * radius + 3, 2 * radius + 3), np.uint8)
    axes = tuple(int(n) for n in generator.integers(max(3, radius // 2), radius + 1, 2))
    cv2.ellipse(mask, (radius + 1, radius + 1), axes, float(generator.uniform(0, 180)), 0, 360, 1, -1)
    return trace_contour(mask) - (radius + 1)
