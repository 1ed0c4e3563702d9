"""Images that stand in two splits, or twice in one: by name, by pixels, and by likeness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from run_utils.doctor.complaints import Complaint
from run_utils.doctor.inspection import ImageRecord
from run_utils.doctor.likeness import find_alike


def find_leaks(records: Sequence[ImageRecord], near_duplicate: float) -> list[Complaint]:
    """Return the complaints about images that are there more than once.

    Args:
        records: of all images, in order of their splits.
        near_duplicate: likeness from which images of different splits are near-duplicates; 0 does not compare.
    """
    complaints = [*_find_same(records, "digest"), *_find_same(records, "name")]
    if near_duplicate:
        complaints += _find_near(records, near_duplicate)
    return complaints


def _find_same(records: Sequence[ImageRecord], key: str) -> Iterator[Complaint]:
    """Complain of each image that has the name or the pixels of an earlier one."""
    first: dict[str, ImageRecord] = {}
    for record in records:
        earlier = first.setdefault(getattr(record, key), record)
        if earlier is record:
            continue
        other = f"{earlier.split}/{earlier.name}"
        if key == "digest":
            kind = "repeated" if earlier.split == record.split else "same_pixels"
            yield Complaint(kind, record.split, record.name, f"has every pixel of {other}")
        elif earlier.split != record.split and earlier.digest != record.digest:
            yield Complaint(
                "same_name", record.split, record.name, f"is called like {other}, whose pixels differ"
            )


def _find_near(records: Sequence[ImageRecord], least: float) -> Iterator[Complaint]:
    splits: dict[str, list[ImageRecord]] = {}
    for record in records:
        splits.setdefault(record.split, []).append(record)
    for one, other in combinations(splits.values(), 2):
        first, second = (np.stack([record.thumbnail for record in own]) for own in (other, one))
        for row, column, likeness in find_alike(first, second, least):
            later, earlier = other[row], one[column]
            if later.digest != earlier.digest:
                detail = f"looks like {earlier.split}/{earlier.name} (likeness {likeness:.2f})"
                yield Complaint("near_duplicate", later.split, later.name, detail)
