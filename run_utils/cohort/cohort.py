"""A cohort from its files to its summary: shared among workers, shown in one bar, and every slide accounted for."""

from __future__ import annotations

import importlib
import logging
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from config.schema import InferSettings
from dataloader.address import Address, locate
from dataloader.redaction import MARK
from run_utils.cohort.agreement import Agreement
from run_utils.cohort.claims import FOLDER_NAME, read_jobs, remove_claims
from run_utils.cohort.costs import estimate_costs
from run_utils.cohort.folder import holding, meeting_dir
from run_utils.files import is_file
from run_utils.inference.manifest import Identity, Manifest, identify
from run_utils.inference.status import DONE, FAILED, SKIPPED, SlideStatus, summarise

logger = logging.getLogger(__name__)

LAUNCHERS = {"ray": ("ray_cohort", "run_on_ray"), "slurm": ("slurm_cohort", "run_on_slurm")}
ENDING_S = 40.0  # that cancelled jobs are given to end: Slurm kills them after half a minute


def infer_cohort(settings: InferSettings, files: Mapping[str, Path | Address]) -> int:
    """Share slides among workers; print a summary.

    Args:
        settings: of the run; `settings.launch` says where workers are.
        files: slides by name.

    Returns:
        0 where no slide failed, else 1.

    Raises:
        ValueError: another cohort run holds the output folder, jobs of an earlier one are at work there, or no worker
            can start.
    """
    if settings.profile:
        raise ValueError(
            f"profile=true shows one process, not launch={settings.launch.kind}; set launch=local"
        )
    module, function = LAUNCHERS[settings.launch.kind]
    launch = getattr(importlib.import_module(f"run_utils.cohort.{module}"), function)
    settings = resolve(settings)
    files = {name: path.absolute() if isinstance(path, Path) else path for name, path in files.items()}
    folder = meeting_dir(settings)
    with holding(folder):
        _forget_last_run(folder)
        manifest = Manifest(locate(settings.output), settings)
        costs = estimate_costs(files, settings.reader)
        statuses: list[SlideStatus] = []
        try:
            for status in _show(launch(settings, files, costs), costs):
                statuses.append(status)
                _record_failure(manifest, status, files[status.name])
        finally:
            manifest.close(is_complete=len(statuses) == len(files))
            if statuses:
                tqdm.write(_summarise(statuses, len(files)))
    return int(len(statuses) < len(files) or any(status.status == FAILED for status in statuses))


def resolve(settings: InferSettings) -> InferSettings:
    """Return settings that mean the same in every folder: absolute paths; and no GPU where none would be used."""
    names = [name for name in ("mask", "regions", "stain") if is_file(getattr(settings, name))]
    if settings.mask and Path(settings.mask).is_dir():
        names.append("mask")
    texts = {name: str(getattr(settings, name)) for name in ("input", "output", "checkpoint", *names)}
    absolute = {name: text if MARK in text else str(Path(text).absolute()) for name, text in texts.items()}
    launch, triton = settings.launch, settings.triton
    if triton.certificates:
        triton = replace(triton, certificates=str(Path(triton.certificates).absolute()))
    if launch.gpus < 0 and (settings.device == "cpu" or settings.predictor == "triton"):
        launch = replace(launch, gpus=0.0)
    return replace(settings, launch=launch, triton=triton, **absolute)  # type: ignore[arg-type]


def _forget_last_run(folder: Path) -> None:
    """Remove what the workers of a run before this one agreed on, and the claims of its jobs.

    Raises:
        ValueError: such jobs are at work: they would go on with the settings of that run.
    """
    agreement = Agreement(folder)
    has_claims = (folder / FOLDER_NAME).exists()
    deadline = time.monotonic() + ENDING_S
    while not (is_forgotten := agreement.forget()) and has_claims and time.monotonic() < deadline:
        logger.info("waits for jobs of an earlier run to end")
        time.sleep(ENDING_S / 10)
    agreement.close()
    if is_forgotten:
        remove_claims(folder)
    elif has_claims:
        jobs = " ".join(dict.fromkeys(job.partition("_")[0] for job in read_jobs(folder)))
        raise ValueError(
            f"jobs of an earlier run are at work in output={folder}: let them end, or cancel them (scancel {jobs}), "
            "and start the same command again"
        )


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


def _record_failure(manifest: Manifest, status: SlideStatus, path: Path | Address) -> None:
    """Write down a slide that failed: of one whose worker was lost, nobody else says so."""
    if status.status != FAILED:
        return
    identity: Identity = {}
    with suppress(OSError):  # it is not there: why it failed
        identity = identify(path)
    try:
        manifest.record(status, path, identity)
    except OSError as error:
        logger.error("%s: %s could not be written: %s", status.name, manifest.path, error)


def _summarise(statuses: list[SlideStatus], num_slides: int) -> str:
    counts = Counter(status.status for status in statuses)
    num_nuclei = sum(status.num_nuclei for status in statuses)
    listed = ", ".join(f"{counts[kind]} {kind}" for kind in (DONE, SKIPPED, FAILED))
    table = summarise(sorted(statuses, key=lambda one: one.name))
    return f"{table}\n{listed} of {num_slides} slides; {num_nuclei:,} nuclei in those done"
