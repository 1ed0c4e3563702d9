"""A cohort from its files to its summary: shared among workers, shown in one bar, and every slide accounted for."""

from __future__ import annotations

import importlib
import logging
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from config.schema import InferSettings
from dataloader.address import Address, locate
from run_utils.cohort.agreement import Agreement
from run_utils.cohort.claims import Claims
from run_utils.cohort.costs import estimate_costs
from run_utils.cohort.folder import holding, meeting_dir
from run_utils.inference.manifest import Manifest, identify
from run_utils.inference.status import DONE, FAILED, SKIPPED, SlideStatus, summarise

logger = logging.getLogger(__name__)

LAUNCHERS = {"ray": ("ray_cohort", "run_on_ray"), "slurm": ("slurm_cohort", "run_on_slurm")}
MOST_LISTED = 100  # slides that the summary lists one by one; of more, only those that are not done


def infer_cohort(settings: InferSettings, files: Mapping[str, Path | Address]) -> int:
    """Share slides among workers; print a summary.

    Args:
        settings: of the run; `settings.launch` says where workers are.
        files: slides by name.

    Returns:
        0 where no slide failed, else 1.

    Raises:
        ValueError: another cohort run holds the output folder, or no worker can start.
    """
    if settings.profile:
        raise ValueError(
            f"profile=true shows one process, not launch={settings.launch.kind}; set launch=local"
        )
    module, function = LAUNCHERS[settings.launch.kind]
    launch = getattr(importlib.import_module(f"run_utils.cohort.{module}"), function)
    folder = meeting_dir(settings)
    with holding(folder):
        manifest = Manifest(locate(settings.output), settings)
        _forget_last_run(folder)
        costs = estimate_costs(files, settings.reader)
        statuses: list[SlideStatus] = []
        try:
            for status in _show(launch(settings, files, costs), costs):
                statuses.append(status)
                if status.status == FAILED:
                    _record(manifest, status, files[status.name])
        finally:
            manifest.close(is_complete=len(statuses) == len(files))
            if statuses:
                tqdm.write(_summarise(statuses, len(files)))
    return int(len(statuses) < len(files) or any(status.status == FAILED for status in statuses))


def _forget_last_run(folder: Path) -> None:
    """Remove what the workers of a run before this one agreed on, unless some of them are still at work."""
    agreement = Agreement(folder)
    if agreement.forget():
        Claims(folder).remove()
    agreement.close()


def _show(ends: Generator[SlideStatus, None, None], costs: Mapping[str, float]) -> Iterator[SlideStatus]:
    """Pass on the ends of slides, and draw a bar of the whole cohort's megapixels."""
    counts: Counter[str] = Counter()
    total = round(sum(costs.values()), 1)
    with closing(ends), logging_redirect_tqdm(), tqdm(total=total, unit="Mpx", smoothing=0.05) as bar:
        for status in ends:
            counts += Counter({status.status: 1, "nuclei": status.num_nuclei})
            slides = f"{sum(counts[kind] for kind in (DONE, SKIPPED, FAILED))}/{len(costs)} slides"
            failed = f", {counts[FAILED]} failed" if counts[FAILED] else ""
            bar.set_postfix_str(f"{slides}{failed}, {counts['nuclei']:,} nuclei", refresh=False)
            bar.update(round(costs[status.name], 3))
            yield status


def _record(manifest: Manifest, status: SlideStatus, path: Path | Address) -> None:
    """Write down a slide that failed: of one whose worker was lost, nobody else says so."""
    try:
        manifest.record(status, path, identify(path))
    except OSError as error:
        logger.error("%s: %s could not be written: %s", status.name, manifest.path, error)


def _summarise(statuses: list[SlideStatus], num_slides: int) -> str:
    counts = Counter(status.status for status in statuses)
    num_nuclei = sum(status.num_nuclei for status in statuses)
    listed = ", ".join(f"{counts[kind]} {kind}" for kind in (DONE, SKIPPED, FAILED))
    rows = statuses if num_slides <= MOST_LISTED else [one for one in statuses if one.status != DONE]
    table = [summarise(sorted(rows, key=lambda one: one.name))] if rows else []
    return "\n".join([*table, f"{listed} of {num_slides} slides; {num_nuclei:,} nuclei in those done"])
