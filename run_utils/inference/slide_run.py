"""One slide from file to status: its resolution, its tissue, then the stream of its regions."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from config.schema import InferSettings
from dataloader.address import Address
from dataloader.outlines import read_outlines, to_working
from dataloader.slides import Slide, SlideError, open_slide
from dataloader.stain import Normalizer
from dataloader.tissue import Tissue, find_mask, find_tissue, overview_mpp, read_mask, read_overview
from dataloader.tissue_pixels import sample_slide, sample_tissue
from run_utils.inference.journal import JournalBusyError
from run_utils.inference.manifest import Identity, Manifest, identify
from run_utils.inference.monitor import Monitor
from run_utils.inference.output_folder import Outputs
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import Predictor, normalise_stain
from run_utils.inference.slide_stream import stream_slide
from run_utils.inference.status import DONE, FAILED, IS_BUSY, SKIPPED, SlideStatus
from run_utils.inference.triton_predictor import find_server
from run_utils.inputs import SLIDE_PIXELS, is_slide, read_header
from run_utils.outputs import WRITERS, SlideResult
from run_utils.outputs.colours import name_types
from run_utils.stain import describe_stain

logger = logging.getLogger(__name__)

MPP_TOLERANCE = 0.05  # an image whose µm/px is this close to the network's is read as it is
WHOLE_PIXELS = 2**28  # working px that outputs which hold a whole image take: 16,384², a GiB of label map
NO_TISSUE = "no tissue was found in it; give mask= an image of your own, or tissue=false to look everywhere"
NOTHING_CHOSEN = "mask= marks nothing in it; mark where to look with values above 0"
IS_DONE = "its outputs are there; overwrite=true predicts it anew"


class SlideRunner:
    """What stays the same from slide to slide.

    Args:
        settings: of the run.
        predictor: gives the maps.
        plan: how slides are cut up and worked on.
        manifest: of the run: says which slides are done, and what results depend on.
        normalizer: of the stain; None leaves slides as they are.
        facts: further things that unfinished work depends on.
        monitor: counts tiles, nuclei and seconds.
    """

    def __init__(
        self,
        settings: InferSettings,
        predictor: Predictor,
        plan: Plan,
        manifest: Manifest,
        normalizer: Normalizer | None,
        facts: dict[str, object],
        monitor: Monitor,
    ) -> None:
        self.settings = settings
        self.predictor = predictor
        self.plan = plan
        self.manifest = manifest
        self.normalizer = normalizer
        self.resolved = facts
        self.facts = {**manifest.facts, **facts}
        self.monitor = monitor
        self.outputs = Outputs.at(settings.output, settings.outputs, {"dots": settings.dots})
        self.mpp: float | None = predictor.facts.mpp
        num_types = predictor.num_types
        self.types = None if num_types is None else name_types(predictor.facts.types, num_types)
        self._has_said_mpp = False

    def run(self, name: str, path: Path | Address) -> SlideStatus:
        """Infer one slide; whatever it meets ends in its status and in the manifest, and the run moves on."""
        start = time.perf_counter()
        identity: Identity = {}
        try:
            identity = identify(path)
            status = self._run(name, path, identity)
        except JournalBusyError:
            status = SlideStatus(name, SKIPPED, IS_BUSY)
        except Exception as error:  # the run moves on to the next slide
            self.monitor.check()
            is_expected = isinstance(error, (OSError, ValueError, MemoryError))
            logger.error("%s failed: %s", path, error, exc_info=not is_expected)
            status = SlideStatus(name, FAILED, str(error) or type(error).__name__)
        status.seconds = time.perf_counter() - start
        if status.reason == IS_BUSY:  # that run writes down how it ended
            return status
        try:
            self.manifest.record(status, path, identity)
        except OSError as error:  # a full disk must not end the run of the others
            logger.error("%s: %s could not be written: %s", name, self.manifest.path, error)
        else:
            if status.status == DONE:
                self.outputs.remove_unfinished(name)
        return status

    def count_regions(self, path: Path | Address) -> float:
        """Return about how many regions a file has, by its header; infinitely many where that is not at hand."""
        if isinstance(path, Address):
            return math.inf
        try:
            (height, width), mpp = read_header(path, self.settings.reader)
        except Exception:  # it is said, and counted, where the slide is tried
            return math.inf
        mpp = self.settings.mpp or mpp
        scale = mpp / self.mpp if mpp and self.mpp else 1.0
        return math.ceil(height * width * (scale / self.settings.region_size) ** 2)

    def stop(self) -> None:
        """Let slides that other threads work on end soon, unfinished, as Ctrl-C ends those of the main thread."""
        self.monitor.stop()
        if (server := find_server(self.predictor)) is not None:
            server.give_up()

    def _run(self, name: str, path: Path | Address, identity: Identity) -> SlideStatus:
        pending = self.outputs.pending(name, is_done=self.manifest.is_done(name, identity))
        if not pending:
            self.outputs.remove_unfinished(name)  # of a run that was killed as it ended
            return SlideStatus(name, SKIPPED, IS_DONE)
        with open_slide(path, self.settings.mpp or None, reader=self.settings.reader) as slide:
            status = self._infer(name, slide, identity)
        if status.status == DONE and self.outputs.address is not None:
            with self.monitor.stage("upload"):
                self.outputs.publish(name, pending)
        return status

    def _infer(self, name: str, slide: Slide, identity: Identity) -> SlideStatus:
        mpp = self._working_mpp(slide)
        shape = slide.working_shape(mpp)
        _check_size(slide, shape, self.settings.outputs)
        with self.monitor.stage("find tissue"):
            overview = read_overview(slide, self.settings.mask_pixel_limit)
            tissue = self._find_tissue(name, slide, mpp, overview)
        if tissue is not None and tissue.is_empty:
            return SlideStatus(name, SKIPPED, NOTHING_CHOSEN if self.settings.mask else NO_TISSUE)
        predictor, stain = self._fit_stain(name, slide, overview)
        result = SlideResult(
            name=name,
            shape=shape,
            read=partial(slide.read, mpp=mpp),
            parts=lambda: iter(()),
            mpp=mpp or slide.mpp,
            level0_scale=slide.level0_scale(mpp),
            types=self.types,
            thumbnail=overview,
            tissue=None if tissue is None else tissue.mask,
        )
        tally = stream_slide(
            result,
            tissue,
            predictor,
            self.plan,
            self.outputs,
            head={
                **self.facts,
                **identity,
                "slide": str(slide.path.resolve()),
                "tissue": _digest(tissue),
                "stain": stain,
            },
            is_done=partial(self.manifest.is_done, name, identity),
            monitor=self.monitor,
        )
        if tally is None:
            return SlideStatus(name, SKIPPED, IS_DONE)
        return SlideStatus(
            name,
            DONE,
            num_nuclei=tally.num_nuclei,
            per_type=dict(tally.per_type),
            num_pixels=shape[0] * shape[1],
            mm2=tally.mm2,
            stain=stain,
            made_with=self.resolved,
        )

    def _find_tissue(self, name: str, slide: Slide, mpp: float | None, overview: np.ndarray) -> Tissue | None:
        """Return where to look: the user's mask or the one found, within the user's outlines; None: everywhere."""
        mask = outlines = None
        if self.settings.mask:
            mask = read_mask(find_mask(Path(self.settings.mask), name), slide.shape_level0)
        elif self.settings.tissue and _num_pixels(slide.shape_level0) >= SLIDE_PIXELS:
            mask = find_tissue(overview, overview_mpp(slide, overview))
        if self.settings.regions:
            outlines = read_outlines(self.settings.regions, slide.shape_level0)
            outlines = to_working(outlines, slide.level0_scale(mpp))
        if mask is None and outlines is None:
            return None
        return Tissue(slide.working_shape(mpp), mask, outlines)

    def _fit_stain(self, name: str, slide: Slide, overview: np.ndarray) -> tuple[Predictor, dict[str, Any]]:
        """Return what predicts this slide, its tiles normalised where they are to be, and the record of that.

        The fit is on tissue of the whole slide, wherever is looked: a region does not change the nuclei of another.
        """
        stain = describe_stain(self.normalizer)
        if self.normalizer is None:
            return self.predictor, stain
        with self.monitor.stage("fit stain"):
            all_over = (
                sample_slide(slide, overview) if self.settings.tissue else sample_tissue(slide, None, None)
            )
            source = self.normalizer.estimate(all_over)
        if source.is_identity:
            logger.warning("%s: shows too little stain to normalise: it is predicted as it is", name)
        return normalise_stain(self.predictor, self.normalizer, source), {
            **stain,
            "source": source.to_dict(),
        }

    def _working_mpp(self, slide: Slide) -> float | None:
        """Return the µm/px to read at; None reads level 0 as it is.

        Raises:
            SlideError: a slide, not an ordinary image, that does not say its µm/px.
        """
        if slide.mpp is None and self.mpp is not None:
            if is_slide(slide):
                raise SlideError(
                    f"{slide.path} does not say how many µm a pixel has; give mpp=, such as mpp=0.25 for 40x"
                )
            if not self._has_said_mpp:
                logger.info("images that do not say their µm/px are taken as the network's, %s", self.mpp)
                self._has_said_mpp = True
        if self.mpp is None or slide.mpp is None:
            return None
        return None if abs(slide.mpp / self.mpp - 1) <= MPP_TOLERANCE else self.mpp


def _num_pixels(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]


def _check_size(slide: Slide, shape: tuple[int, int], names: Sequence[str]) -> None:
    """Refuse outputs that hold a whole image for a slide that is too large for them."""
    whole = [name for name in names if WRITERS[name].is_whole]
    if whole and _num_pixels(shape) > WHOLE_PIXELS:
        raise ValueError(
            f"{slide.path} has {shape[0]}x{shape[1]} px at the working resolution, more than the {WHOLE_PIXELS} "
            f"that outputs={whole} hold in memory; leave them out: label, overlay and parquet take any slide"
        )


def _digest(tissue: Tissue | None) -> str:
    """Return a short name for where is looked, so that another mask is told apart."""
    if tissue is None or tissue.mask is None:
        return "everywhere"
    return hashlib.sha256(repr(tissue.mask.shape).encode() + tissue.mask.tobytes()).hexdigest()
