"""A file or a folder of files: every one ends as done, skipped or failed, and the exit status tells."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from config.schema import InferSettings
from dataloader.slides import READERS, Slide, open_slide
from models.nuclei import Nuclei, NucleusType
from run_utils.build import build_plan, build_predictor
from run_utils.inference.pipeline import Plan, infer_slide
from run_utils.inference.predictors import TorchPredictor
from run_utils.outputs import ImageResult, check_names, output_path, write_outputs
from run_utils.outputs.colours import name_types
from run_utils.provenance import write_provenance

logger = logging.getLogger(__name__)

DONE, SKIPPED, FAILED = "done", "skipped", "failed"
# Settings that may differ between runs into one folder: which files, where, and how fast.
FREE_SETTINGS = ("input", "output", "outputs", "checkpoint", "device", "batch_size", "dots", "overwrite")
MPP_TOLERANCE = 0.05  # an image whose µm/px is this close to the network's is read as it is


@dataclass
class FileStatus:
    """How one file ended.

    Attributes:
        name: of its outputs.
        status: done, skipped or failed.
        reason: why, where it was not done.
        num_nuclei: nuclei found.
        per_type: nuclei of each type, by name.
        seconds: wall time, reading and writing included.
        num_pixels: at the working resolution.
    """

    name: str
    status: str
    reason: str = ""
    num_nuclei: int = 0
    per_type: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    num_pixels: int = 0


def infer_all(settings: InferSettings) -> int:
    """Write the chosen outputs of every input file; print a summary.

    Returns:
        0 where no file failed, else 1.

    Raises:
        FileNotFoundError: where the input does not exist or its folder holds no image.
        ValueError: for an unknown output, or a checkpoint that cannot be used.
    """
    check_names(settings.outputs)
    files = find_images(Path(settings.input))
    predictor = build_predictor(settings)
    plan = build_plan(settings, predictor)
    output_dir = Path(settings.output)
    output_dir.mkdir(parents=True, exist_ok=True)
    _write_manifest(output_dir / "run.json", settings)
    run = _Run(settings, predictor, plan, output_dir)
    with logging_redirect_tqdm():
        statuses = [run.process(name, path) for name, path in tqdm(files.items(), unit="image")]
    tqdm.write(_summary(statuses))
    return int(any(status.status == FAILED for status in statuses))


def _write_manifest(path: Path, settings: InferSettings) -> None:
    """Write the run's settings beside its results, or refuse to mix results of different ones.

    Raises:
        ValueError: where results of other settings are there, and they are not to be overwritten.
    """
    digest = hashlib.sha256(Path(settings.checkpoint).read_bytes()).hexdigest()
    now = {**dataclasses.asdict(settings), "checkpoint_sha256": digest}
    if path.is_file() and not settings.overwrite:
        before = json.loads(path.read_text())["settings"]
        names = [name for name in now if name not in FREE_SETTINGS and before.get(name) != now[name]]
        if names:
            differing = "; ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in names)
            raise ValueError(
                f"{path.parent} holds results of other settings ({differing}): give another output=, or "
                "overwrite=true"
            )
    write_provenance(path, settings=now)


def find_images(path: Path) -> dict[str, Path]:
    """Return the images at a path by the name of their outputs: the stem, or the whole name where stems clash.

    Raises:
        FileNotFoundError: where there is nothing, or a folder without images.
    """
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise FileNotFoundError(f"input {path} does not exist; give an image or a folder of images")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in READERS and file.is_file())
    if not files:
        raise FileNotFoundError(f"input folder {path} holds no image; known endings: {', '.join(READERS)}")
    stems = Counter(file.stem for file in files)
    return {file.stem if stems[file.stem] == 1 else file.name: file for file in files}


class _Run:
    """What stays the same from file to file."""

    def __init__(
        self, settings: InferSettings, predictor: TorchPredictor, plan: Plan, output_dir: Path
    ) -> None:
        self.settings = settings
        self.predictor = predictor
        self.plan = plan
        self.output_dir = output_dir
        facts = predictor.network.facts
        self.mpp: float | None = facts.mpp
        self._has_said_mpp = False
        num_types = predictor.num_types
        self.types = None if num_types is None else name_types(facts.types, num_types)

    def process(self, name: str, path: Path) -> FileStatus:
        """Infer one file; whatever it meets ends in its status, and the run moves on."""
        if not self.settings.overwrite and self._is_done(name):
            return FileStatus(name, SKIPPED, "its outputs are there; overwrite=true predicts it anew")
        start = time.perf_counter()
        try:
            with open_slide(path, self.settings.mpp or None) as slide:
                result = self._infer(name, slide)
            write_outputs(result, self.output_dir, self.settings.outputs, dots=self.settings.dots)
        except Exception as error:  # the run moves on to the next file
            logger.error("%s failed: %s", path, error)
            logger.debug("%s", path, exc_info=True)
            return FileStatus(name, FAILED, str(error))
        return FileStatus(
            name,
            DONE,
            num_nuclei=len(result.nuclei),
            per_type=count_types(result.nuclei, self.types),
            seconds=time.perf_counter() - start,
            num_pixels=result.label_map.size,
        )

    def _infer(self, name: str, slide: Slide) -> ImageResult:
        mpp = self._working_mpp(slide)
        label_map, nuclei = infer_slide(slide, self.predictor, self.plan, mpp=mpp)
        height, width = label_map.shape
        return ImageResult(
            name=name,
            source_path=slide.path,
            image=slide.read((0, 0, height, width), mpp),
            label_map=label_map,
            nuclei=nuclei,
            mpp=mpp or slide.mpp,
            level0_scale=slide.level0_scale(mpp),
            types=self.types,
        )

    def _working_mpp(self, slide: Slide) -> float | None:
        """Return the µm/px to read at; None reads level 0 as it is."""
        if slide.mpp is None and not self._has_said_mpp:
            logger.info("images that do not say their µm/px are taken as the network's, %s", self.mpp)
            self._has_said_mpp = True
        if self.mpp is None or slide.mpp is None:
            return None
        return None if abs(slide.mpp / self.mpp - 1) <= MPP_TOLERANCE else self.mpp

    def _is_done(self, name: str) -> bool:
        return all(output_path(self.output_dir, name, kind).exists() for kind in self.settings.outputs)


def count_types(nuclei: Nuclei, types: tuple[NucleusType, ...] | None) -> Counter[str]:
    """Return how many nuclei each type has, by name, background left out unless some nucleus has it."""
    if types is None or nuclei.types is None:
        return Counter()
    counts = np.bincount(nuclei.types, minlength=len(types))
    return Counter(
        {kind.name: int(n) for kind, n in zip(types, counts, strict=True) if n or kind != types[0]}
    )


def _summary(statuses: list[FileStatus]) -> str:
    kinds = list(dict.fromkeys(kind for status in statuses for kind in status.per_type))
    headings = ["image", "status", "nuclei", *kinds, "seconds", "Mpx/s"]
    table = tabulate([list(_row(status, kinds)) for status in statuses], headings, floatfmt=".2f")
    reasons = [f"{s.name}: {s.status}: {s.reason}" for s in statuses if s.reason]
    return "\n".join([table, *reasons])


def _row(status: FileStatus, kinds: list[str]) -> Iterator[object]:
    yield status.name
    yield status.status
    if status.status != DONE:
        return
    yield status.num_nuclei
    yield from (status.per_type[kind] for kind in kinds)
    yield status.seconds
    yield status.num_pixels / 1e6 / status.seconds
