"""The report of `compute_stats.py` as files: the page, its pictures read again from both sides, and LaTeX."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from config.schema import EvaluateSettings
from dataloader.annotations.base import read_rgb
from run_utils.evaluation_report import EvaluationReport
from run_utils.files import replacing
from run_utils.image_nuclei import label_maps_of
from run_utils.provenance import describe_environment
from run_utils.report.build import Pair, make_report
from run_utils.report.latex import to_latex
from run_utils.report.page import write_page
from run_utils.sides import open_adapter, open_sides, open_truth

logger = logging.getLogger(__name__)

PAGE, LATEX = "report.html", "report.tex"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

ReadImage = Callable[[str], np.ndarray | None]
"""Gives the (H, W, 3) uint8 RGB image of a name, None where there is none."""


def write_report(evaluation: EvaluationReport, settings: EvaluateSettings) -> Path:
    """Write ``report.html`` and ``report.tex`` beside the tables of an evaluation; return the page's path.

    Raises:
        FileNotFoundError: where ``images`` is not a folder.
        OSError: if the folder cannot be written.
    """
    predicted = Path(settings.predicted)
    output_dir = (
        Path(settings.output) if settings.output else predicted if predicted.is_dir() else predicted.parent
    )
    facts = {
        "truth": f"{settings.true} {settings.split if settings.adapter else ''}".strip(),
        "predictions": settings.predicted,
        "mode": settings.mode,
        **({} if evaluation.radius is None else {"radius of pairs": f"{evaluation.radius:g} px"}),
    }
    environment = describe_environment()
    facts |= {"made": environment["time"], "commit": (environment["commit"] or "unknown")[:12]}
    report = make_report(
        evaluation,
        title=settings.title,
        facts=facts,
        num_resamples=settings.resamples,
        read_pair=_pair_reader(settings) if settings.examples else None,
        num_examples=settings.examples,
    )
    with replacing(output_dir / LATEX) as temporary:
        temporary.write_text(to_latex(report), encoding="utf-8")
    write_page(report, output_dir / PAGE)
    return output_dir / PAGE


def _pair_reader(settings: EvaluateSettings) -> Callable[[str], Pair | None]:
    truth = open_truth(settings)
    truths, predictions = open_sides(truth.nuclei, Path(settings.predicted), tuple(truth.type_names))
    read_image = _image_reader(settings)

    def read(name: str) -> Pair | None:
        try:
            true, predicted = label_maps_of(truths[name](), predictions[name]())
            image = read_image(name)
        except (ValueError, OSError) as error:
            logger.warning("%s is not drawn in the report: %s", name, error)
            return None
        is_fitting = image is not None and image.shape[:2] == true.shape
        return Pair(true, predicted, image if is_fitting else None)

    return read


def _image_reader(settings: EvaluateSettings) -> ReadImage:
    if settings.images:
        folder = Path(settings.images)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"images={folder} is not a folder; give the one with the images themselves"
            )
        files = {
            path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES
        }
        return lambda name: read_rgb(files[name]) if name in files else None
    if settings.adapter:
        adapter = open_adapter(settings)
        return lambda name: adapter.read(settings.split, name).image
    return lambda name: None
