"""Check every image of every split: read in parallel, keep a few kilobytes of each, report, and tell by exit status."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import orjson
from tqdm import tqdm

from config.schema import CheckSettings
from dataloader.annotations import AnnotationAdapter
from dataloader.annotations.base import IncompleteSplitError
from run_utils.devices import usable_cpus
from run_utils.doctor.complaints import Complaint, FileIndex, format_complaints, is_sound
from run_utils.doctor.inspection import ImageRecord, Rules, inspect_image
from run_utils.doctor.leaks import find_leaks
from run_utils.doctor.pictures import draw_histograms, draw_split
from run_utils.doctor.summary import Summary, find_absent_types, format_summaries, summarise
from run_utils.extraction import open_data
from run_utils.files import replacing
from run_utils.training.contact_sheet import write_sheet

logger = logging.getLogger(__name__)

REPORT_NAME = "report.json"
HISTOGRAMS_NAME = "histograms.png"
FINE, FAULTY = 0, 1  # exit statuses
Examined = tuple[ImageRecord | None, list[Complaint]]


def check_data(settings: CheckSettings) -> int:
    """Check a data set, print tables and complaints, write report and pictures; 1 where there is an error.

    Raises:
        FileNotFoundError: where the data set's folder is missing.
        ValueError: for settings that its adapter does not take.
    """
    adapter = open_data(settings.data)
    output_dir = Path(settings.output)
    output_dir.mkdir(parents=True, exist_ok=True)
    names, complaints = _list_images(adapter)
    records = []
    for record, found in _examine_all(adapter, names, settings):
        records += [record] if record is not None else []
        complaints += found
    complaints += find_leaks(records, settings.near_duplicate)
    summaries = [summarise(adapter, split, len(own), records) for split, own in names.items()]
    complaints += find_absent_types(summaries, adapter.class_names)
    files = FileIndex(Path(settings.data.root), adapter)
    complaints = [replace(c, files=files.find(c.split, c.name)) if c.name else c for c in complaints]
    _write_pictures(adapter, records, settings, output_dir)
    _write_report(output_dir / REPORT_NAME, settings, summaries, complaints)
    sys.stdout.write(f"{format_summaries(summaries, adapter)}\n\n")
    sys.stdout.write(f"{format_complaints(complaints, settings.num_shown)}; all of it in {output_dir}\n")
    return FINE if is_sound(complaints) else FAULTY


def _list_images(adapter: AnnotationAdapter) -> tuple[dict[str, list[str]], list[Complaint]]:
    """Return the images of each split, also those without labels: reading them tells what is missing."""
    names: dict[str, list[str]] = {}
    complaints = []
    try:
        splits = adapter.list_splits()
    except (OSError, ValueError) as error:
        return {}, [Complaint("split", "", "", str(error))]
    for split in splits:
        try:
            names[split] = adapter.list_names(split)
        except IncompleteSplitError as error:
            names[split] = list(error.names)
        except (OSError, ValueError) as error:
            names[split] = []
            complaints.append(Complaint("split", split, "", str(error)))
    if not any(names.values()) and not complaints:
        complaints.append(Complaint("split", "", "", "no image was found in any split"))
    return names, complaints


def _examine_all(
    adapter: AnnotationAdapter, names: dict[str, list[str]], settings: CheckSettings
) -> Iterator[Examined]:
    """Yield what is known of each image, in order; at most a worker's number of images is in memory at once."""
    max_area = settings.max_area_um2 / adapter.mpp**2
    rules = Rules(len(adapter.class_names), settings.min_area, max_area)
    jobs = [(split, name) for split, own in names.items() for name in own]
    num_workers = usable_cpus() if settings.workers < 0 else settings.workers
    cv2.setNumThreads(1)  # the workers are the parallelism
    with ThreadPoolExecutor(num_workers) as threads:
        results = threads.map(lambda job: _examine(adapter, job[0], job[1], rules), jobs)
        yield from tqdm(results, total=len(jobs), desc="check", unit="image")


def _examine(adapter: AnnotationAdapter, split: str, name: str, rules: Rules) -> Examined:
    try:
        record, findings = inspect_image(split, adapter.read(split, name), rules)
    except Exception as error:  # whatever is wrong with one file, the others are checked
        logger.debug("%s/%s", split, name, exc_info=True)
        text = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
        return None, [Complaint("unreadable", split, name, text)]
    return record, [Complaint(finding.kind, split, name, finding.detail) for finding in findings]


def _write_pictures(
    adapter: AnnotationAdapter, records: Sequence[ImageRecord], settings: CheckSettings, output_dir: Path
) -> None:
    if not records:
        return
    write_sheet(output_dir / HISTOGRAMS_NAME, draw_histograms(records, adapter))
    for split in dict.fromkeys(record.split for record in records) if settings.num_panels else ():
        own = [record for record in records if record.split == split]
        path = output_dir / f"contact_sheet_{split.replace('/', '_')}.png"
        write_sheet(path, draw_split(adapter, own, settings.num_panels, settings.seed))


def _write_report(
    path: Path, settings: CheckSettings, summaries: Sequence[Summary], complaints: Sequence[Complaint]
) -> None:
    content = {
        "settings": asdict(settings),
        "splits": {summary.split: summary.to_dict() for summary in summaries},
        "complaints": [complaint.to_dict() for complaint in complaints],
    }
    with replacing(path) as temporary:
        temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
