"""A slide or a folder of slides: every one ends as done, skipped or failed, and the exit status tells."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import cv2
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from config.schema import InferSettings
from dataloader.address import Address, locate
from run_utils.build_inference import build_plan, build_predictor, resolved_facts
from run_utils.inference.hold import holding_address
from run_utils.inference.manifest import Manifest
from run_utils.inference.monitor import Monitor
from run_utils.inference.output_folder import working_dir
from run_utils.inference.side_by_side import run_all
from run_utils.inference.slide_run import SlideRunner
from run_utils.inference.status import FAILED, SlideStatus, summarise
from run_utils.inputs import find_images
from run_utils.outputs import check_names
from run_utils.profiling import profile_to
from run_utils.stain import choose_normalizer

TRACED_BATCHES = 8  # of the slide's first tiles that a trace shows


def infer_all(settings: InferSettings) -> int:
    """Write the chosen outputs of every input file; print a summary.

    Returns:
        0 where no file failed, else 1.

    Raises:
        FileNotFoundError: where the input does not exist or its folder holds no image.
        ValueError: for an unknown output, or a checkpoint that cannot be used.
    """
    check_names(settings.outputs)
    files = find_images(settings.input)
    if settings.launch.kind != "local":
        from run_utils.cohort.cohort import infer_cohort  # late: it builds on what this file does

        with holding_address(locate(settings.output)):
            return infer_cohort(settings, files)
    tracing = profile_to(_profile_dir(settings), name="infer", active=TRACED_BATCHES, all_threads=True)
    with holding_address(locate(settings.output)), tracing as tracer:
        return _infer_all(settings, files, Monitor(tracer))


def _profile_dir(settings: InferSettings) -> Path | None:
    return working_dir(locate(settings.output)) / "profile" if settings.profile else None


def _infer_all(settings: InferSettings, files: Mapping[str, Path | Address], monitor: Monitor) -> int:
    predictor = build_predictor(settings, monitor)
    plan = build_plan(settings, predictor)
    normalizer = choose_normalizer(settings.stain, predictor.facts.notes)
    manifest = Manifest(locate(settings.output), settings)
    facts = resolved_facts(settings, predictor, plan)
    runner = SlideRunner(settings, predictor, plan, manifest, normalizer, facts, monitor)
    cv2.setNumThreads(1)  # regions are decoded side by side, one thread each
    start = time.perf_counter()
    statuses: list[SlideStatus] = []
    try:
        with logging_redirect_tqdm():
            most_regions = 1 if settings.profile else plan.most_regions  # a trace is of one thread's tiles
            with closing(run_all(runner, files, most_regions)) as ended:
                statuses.extend(tqdm(ended, total=len(files), unit="slide", disable=len(files) == 1))
    finally:
        manifest.close(is_complete=len(statuses) == len(files))
        if statuses:
            tqdm.write(summarise(statuses))
            table = monitor.table(time.perf_counter() - start, sum(status.mm2 or 0.0 for status in statuses))
            tqdm.write(table)
            if (folder := _profile_dir(settings)) is not None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "stages.txt").write_text(table + "\n")
    return int(any(status.status == FAILED for status in statuses))
