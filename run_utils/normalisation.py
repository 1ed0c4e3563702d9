"""Images and slides brought to one stain: each is fitted once, changed tile by tile, and shown before and after."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from config.schema import NormalizeSettings
from dataloader.overview import read_overview
from dataloader.slides import Slide, open_slide
from dataloader.stain import Normalizer, StainStatistics
from dataloader.tissue_pixels import sample_slide, sample_tissue
from run_utils.devices import usable_cpus
from run_utils.files import replacing
from run_utils.inference.status import DONE, FAILED, SKIPPED, SlideStatus
from run_utils.inputs import find_local, is_slide
from run_utils.normalisation_record import RECORD, NormalisationRecord
from run_utils.outputs import SlideResult
from run_utils.outputs.pyramid import TILE, Box, MakeTile, rgb_coding, row_boxes, write_pyramid
from run_utils.stain import build_normalizer
from run_utils.training.contact_sheet import PANEL_SIZE, stack_panels, write_sheet

logger = logging.getLogger(__name__)

SLIDE, IMAGE = ".tif", ".png"
SHEET, STATISTICS = ".before_after.png", ".stain.json"
TARGET = "target.json"
MAX_THREADS = 8  # that read, normalise and encode tiles; some MB each
PNG_LEVEL = 3  # of deflate: half the time of Pillow's 6, and files of tissue are no larger
NO_STAIN = "too little stain was found to fit: its colours stay as they are"
IS_DONE = "its result is there; overwrite=true makes it anew"
IS_UNKNOWN = f"a result is there, but {RECORD} does not say how it was made; overwrite=true makes it anew"


def normalize_all(settings: NormalizeSettings) -> int:
    """Write every input file in the target's stain, as PNG or pyramidal TIFF; print a summary.

    Returns:
        0 where no file failed, else 1.

    Raises:
        FileNotFoundError: the input or the target does not exist, or the input folder holds no image.
        ValueError: the target holds no stain or does not suit the method, a result would replace an input, or the
            output folder holds results of other settings.
    """
    files = find_local(Path(settings.input))
    _check_places(settings, files)
    normalizer = build_normalizer(settings.method, settings.target)
    record = _open_record(settings, normalizer)
    cv2.setNumThreads(1)  # tiles are made side by side, one thread each
    runner = StainRunner(settings, normalizer, record)
    statuses: list[SlideStatus] = []
    try:
        with logging_redirect_tqdm():
            for name, path in tqdm(files.items(), unit="image", disable=len(files) == 1):
                statuses.append(runner.run(name, path))
    finally:
        if statuses:
            tqdm.write(_summarise(statuses))
    return int(any(status.status == FAILED for status in statuses))


class StainRunner:
    """What stays the same from image to image.

    Args:
        settings: of the run.
        normalizer: the method, and the target.
        record: of the output folder.
    """

    def __init__(
        self, settings: NormalizeSettings, normalizer: Normalizer, record: NormalisationRecord
    ) -> None:
        self.settings = settings
        self.normalizer = normalizer
        self.record = record
        self.output_dir = Path(settings.output)

    def run(self, name: str, path: Path) -> SlideStatus:
        """Normalise one image or slide; whatever it meets ends in its status, and the run moves on."""
        start = time.perf_counter()
        try:
            status = self._run(name, path)
        except Exception as error:  # the run moves on to the next image
            is_expected = isinstance(error, (OSError, ValueError, MemoryError))
            logger.error("%s failed: %s", path, error, exc_info=not is_expected)
            status = SlideStatus(name, FAILED, str(error) or type(error).__name__)
        status.seconds = time.perf_counter() - start
        return status

    def _run(self, name: str, path: Path) -> SlideStatus:
        has_result = any(result.exists() for result in _results(self.output_dir, name))
        is_made_so = self.record.is_made_so(name)
        if has_result and is_made_so is not False and not self.settings.overwrite:
            return SlideStatus(name, SKIPPED, IS_DONE if is_made_so else IS_UNKNOWN)
        with open_slide(path, self.settings.mpp or None, reader=self.settings.reader) as slide:
            overview = read_overview(slide)
            source = self.normalizer.estimate(self._sample(slide, overview))
            self._write(name, slide, source, overview)
            self.record.add(name)
            height, width = slide.shape_level0
        reason = NO_STAIN if source.is_identity else ""
        return SlideStatus(name, DONE, reason, num_pixels=height * width)

    def _sample(self, slide: Slide, overview: np.ndarray) -> np.ndarray:
        """Return (P, 3) uint8 pixels of level 0 to fit on."""
        if self.settings.tissue:
            return sample_slide(slide, overview)
        return sample_tissue(slide, None, None)

    def _write(self, name: str, slide: Slide, source: StainStatistics, overview: np.ndarray) -> None:
        """Write all files of an image; the result takes its name last, so that where it is, all are."""
        extension, reader, write = (
            (SLIDE, "tiff", self._write_slide) if is_slide(slide) else (IMAGE, "image", self._write_image)
        )
        with replacing(self.output_dir / f"{name}{extension}") as temporary:
            write(temporary, name, slide, source)
            with open_slide(temporary, reader=reader) as result:
                after = read_overview(result)
            heading = "After: unchanged" if source.is_identity else f"After: {self.settings.method}"
            write_sheet(self.output_dir / f"{name}{SHEET}", _draw_sheet(overview, after, heading))
            _save(source, self.output_dir / f"{name}{STATISTICS}")

    def _write_image(self, path: Path, name: str, slide: Slide, source: StainStatistics) -> None:
        pixels = self._read(slide, source, (0, 0, *slide.shape_level0))
        Image.fromarray(pixels).save(path, format="PNG", compress_level=PNG_LEVEL)

    def _write_slide(self, path: Path, name: str, slide: Slide, source: StainStatistics) -> None:
        """Write level 0 and its pyramid; tiles are read, normalised and encoded side by side, few at a time."""
        result = SlideResult(
            name=name,
            shape=slide.shape_level0,
            read=partial(self._read, slide, source),
            parts=lambda: iter(()),
            mpp=slide.mpp,
        )
        write_pyramid(
            path,
            result,
            tiles=_tiles(result),
            coding=rgb_coding(self.settings.quality),
            channel="stain-normalised",
            notes={"stain normalisation": self.settings.method},
            num_threads=min(usable_cpus(), MAX_THREADS),
        )

    def _read(self, slide: Slide, source: StainStatistics, box_yxyx: Box) -> np.ndarray:
        """Return (h, w, 3) uint8 RGB of level 0, normalised."""
        return self.normalizer.transform(slide.read(box_yxyx), source)


def _tiles(result: SlideResult) -> Iterator[MakeTile]:
    """Give each tile, row by row, as a function that makes it."""
    rows = range(-(-result.shape[0] // TILE))
    boxes = [box for row in rows for box in row_boxes(result.shape, row)]
    for box in tqdm(boxes, unit="tile", leave=False):
        yield partial(result.read, box)


def _check_places(settings: NormalizeSettings, files: dict[str, Path]) -> None:
    """Refuse results that would replace an input or be taken for one by the next run."""
    output_dir = Path(settings.output)
    if output_dir.resolve() == Path(settings.input).resolve():
        raise ValueError(f"output={output_dir} is the input folder; give another one for the results")
    sources = {path.resolve() for path in files.values()}
    if settings.target:
        sources.add(Path(settings.target).resolve())
    for name in files:
        for result in _results(output_dir, name):
            if result.resolve() in sources:
                raise ValueError(f"{result} would be replaced by its own result; give another output=")


def _results(output_dir: Path, name: str) -> list[Path]:
    return [output_dir / f"{name}{extension}" for extension in (SLIDE, IMAGE)]


def _open_record(settings: NormalizeSettings, normalizer: Normalizer) -> NormalisationRecord:
    """Return the output folder's record, the target beside it; see there for what is refused."""
    facts = {
        "method": settings.method,
        "target": normalizer.target.to_dict(),
        "quality": settings.quality,
        "tissue": settings.tissue,
    }
    record = NormalisationRecord(Path(settings.output), facts, overwrite=settings.overwrite)
    _save(normalizer.target, record.path.with_name(TARGET))
    return record


def _save(statistics: StainStatistics, path: Path) -> None:
    with replacing(path) as temporary:
        statistics.save(temporary)


def _draw_sheet(before: np.ndarray, after: np.ndarray, heading: str) -> np.ndarray:
    """Return before and after side by side, (H, W, 3) uint8 RGB; small images are enlarged by a whole factor."""
    factor = -(-PANEL_SIZE // max(before.shape))
    shape = (before.shape[0] * factor, before.shape[1] * factor)
    return stack_panels([[before, after]], ["Before", heading], shape=shape)


def _summarise(statuses: Sequence[SlideStatus]) -> str:
    """Return a table with a line for each image, and why those that were not changed were not."""
    rows = [[s.name, s.status, *(_figures(s) if s.status == DONE else ())] for s in statuses]
    table = tabulate(rows, ["image", "status", "Mpx", "seconds", "Mpx/s"], floatfmt=".2f")
    return "\n".join([table, *(f"{s.name}: {s.status}: {s.reason}" for s in statuses if s.reason)])


def _figures(status: SlideStatus) -> tuple[float, float, float]:
    """Return megapixels, seconds, and megapixels a second."""
    megapixels = status.num_pixels / 1e6
    return megapixels, status.seconds, megapixels / status.seconds
