"""A slide or a folder of slides: every one ends as done, skipped or failed, and the exit status tells."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from config.schema import InferSettings
from run_utils.build import build_plan, build_predictor
from run_utils.devices import resolve_device, resolve_precision
from run_utils.inference.manifest import Manifest
from run_utils.inference.monitor import Monitor
from run_utils.inference.plan import Plan
from run_utils.inference.predictors import Predictor
from run_utils.inference.slide_run import SlideRunner
from run_utils.inference.status import FAILED, SlideStatus, summarise
from run_utils.inputs import find_images
from run_utils.outputs import check_names
from run_utils.provenance import describe_environment
from run_utils.stain import choose_normalizer


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
    normalizer = choose_normalizer(settings.stain, predictor.facts.notes)
    manifest = Manifest(Path(settings.output), settings)
    monitor = Monitor()
    facts = _resolved(settings, predictor, plan)
    runner = SlideRunner(settings, predictor, plan, manifest, normalizer, facts, monitor)
    cv2.setNumThreads(1)  # regions are decoded side by side, one thread each
    start = time.perf_counter()
    statuses: list[SlideStatus] = []
    try:
        with logging_redirect_tqdm():
            for name, path in tqdm(files.items(), unit="slide", disable=len(files) == 1):
                statuses.append(runner.run(name, path))
    finally:
        manifest.close(is_complete=len(statuses) == len(files))
        if statuses:
            tqdm.write(summarise(statuses))
            tqdm.write(monitor.table(time.perf_counter() - start))
    return int(any(status.status == FAILED for status in statuses))


def _resolved(settings: InferSettings, predictor: Predictor, plan: Plan) -> dict[str, object]:
    """Return what settings left open has become on this machine: half a slide must not be done another way."""
    device = resolve_device(settings.device)
    return {
        "device": device.type,
        "precision": str(resolve_precision(settings.precision, device)),
        "window": plan.window,
        "margin": predictor.geometry.margin,
        "commit": describe_environment()["commit"],
    }
