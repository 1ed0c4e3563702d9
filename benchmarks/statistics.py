"""Time of the instance scores of an image: `python -m benchmarks.statistics [--consep=DIR] [label file …]`.

Compares the overlap table with the obvious definitions, one mask per nucleus, in the same run; both must give the
same scores. A synthetic image of 550 nuclei comes first, then the 14 test images of CoNSeP beside the predictions in
outputs/consep_test (where there are none, beside a disturbed truth), then the files given.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.figures import Figure, state
from benchmarks.timing import median_ms
from metrics.matches import Matches
from metrics.overlap import Overlap
from metrics.panoptic import count_binary
from metrics.segmentation import F1_IOUS
from run_utils.label_files import read_label_map
from run_utils.measuring import instance_scores

SIZE = 1000  # pixels, side of the synthetic image
NUM_NUCLEI = 550
LIMIT_MS = 100  # an image may take at most this long
ROOT = Path(__file__).resolve().parents[1]
CONSEP_DIR = ROOT.parent / "shared" / "data" / "consep"
PREDICTED_DIR = ROOT / "outputs" / "consep_test" / "mat"
Scores = dict[str, float]
Pair = tuple[np.ndarray, np.ndarray]


def main() -> None:
    """Measure the synthetic image, CoNSeP's test images and the files given, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("label_files", nargs="*", type=Path, help="true label maps to measure as well")
    parser.add_argument(
        "--consep", type=Path, default=CONSEP_DIR, help="folder of CoNSeP as it was published"
    )
    parser.add_argument("--repeats", type=int, default=7, help="runs of ours; the median is printed")
    parser.add_argument("--slow-repeats", type=int, default=1, help="runs of the definitions by masks")
    arguments = parser.parse_args()
    names = ", ".join(fast_scores(np.eye(2, dtype=np.int32), np.eye(2, dtype=np.int32)))
    print(f"{names} and the counts of PQ of one image, median ms; {os.cpu_count()} CPU cores")
    times = {}
    for name, (true, predicted) in make_pairs(arguments.label_files, arguments.consep):
        ours_ms, ours = median_ms(lambda: fast_scores(true, predicted), arguments.repeats)  # noqa: B023
        slow_ms, slow = median_ms(lambda: slow_scores(true, predicted), arguments.slow_repeats)  # noqa: B023
        assert all(np.isclose(ours[key], slow[key]) for key in slow), (ours, slow)
        times[name] = ours_ms, slow_ms
        num_nuclei = len(np.unique(true)) - 1
        print(
            f"{name}: {true.shape[0]} x {true.shape[1]}, {num_nuclei} nuclei: "
            f"ours {ours_ms:.1f}, masks {slow_ms:.0f}, ratio {slow_ms / ours_ms:.0f}",
            flush=True,
        )
    ours_ms, slow_ms = np.max(list(times.values()), axis=0)
    what, asked = f"all instance statistics, the slowest of {len(times)} images", f"at most {LIMIT_MS} ms"
    state(Figure(what, ours_ms, "ms", slow_ms, "a mask for each nucleus", asked=asked))


def make_pairs(label_files: list[Path], consep_dir: Path) -> Iterator[tuple[str, Pair]]:
    """Yield the name, truth and prediction of each image to measure."""
    synthetic = make_label_map(np.random.default_rng(0))
    yield "synthetic", (synthetic, disturb(synthetic, np.random.default_rng(1)))
    true_dir = consep_dir / "Test" / "Labels"
    if not true_dir.is_dir():
        print(
            f"no label files in {true_dir}: CoNSeP's images are left out; give its folder with --consep=DIR"
        )
    for path in sorted(true_dir.glob("*.mat")) + label_files:
        true = read_label_map(path)
        prediction = PREDICTED_DIR / path.name
        if path not in label_files and prediction.is_file():
            yield path.stem, (true, read_label_map(prediction))
        else:
            yield f"{path.stem} (disturbed)", (true, disturb(true, np.random.default_rng(1)))


def fast_scores(true: np.ndarray, predicted: np.ndarray) -> Scores:
    """Return the instance scores that evaluation reads off one overlap table; it counts matches as well."""
    overlap = Overlap.of(true, predicted)
    count_binary(Matches.of(overlap))
    return instance_scores(overlap)


def slow_scores(true: np.ndarray, predicted: np.ndarray) -> Scores:
    """Return the instance scores from their definitions, with one mask per nucleus and the whole IoU matrix.

    Args:
        true: (H, W) integer label map with at least one nucleus.
        predicted: (H, W) integer label map with at least one nucleus.
    """
    true_masks = [true == nucleus for nucleus in np.unique(true[true > 0])]
    predicted_masks = [predicted == nucleus for nucleus in np.unique(predicted[predicted > 0])]
    predicted_ids = np.unique(predicted[predicted > 0]).tolist()
    inter = np.zeros((len(true_masks), len(predicted_masks)))
    union = np.ones_like(inter)
    for row, mask in enumerate(true_masks):
        for nucleus in np.unique(predicted[mask & (predicted > 0)]).tolist():
            column = predicted_ids.index(nucleus)
            inter[row, column] = np.sum(mask & predicted_masks[column])
            union[row, column] = np.sum(mask | predicted_masks[column])
    is_pair = inter > 0
    ious = inter / union
    matched = ious[ious > 0.5]
    num_nuclei = len(true_masks) + len(predicted_masks)
    f1 = {f"F1@{iou}": 2 * np.sum(ious > iou) / num_nuclei for iou in F1_IOUS}
    best = np.argmax(inter / (union + 1e-6), axis=1)
    with_pair = np.flatnonzero(is_pair.any(axis=1))
    rows, columns = linear_sum_assignment(-inter / (union + 1e-6))
    kept = is_pair[rows, columns]
    areas = [np.array([mask.sum() for mask in masks]) for masks in (true_masks, predicted_masks)]
    shared = np.sum((true > 0) & (predicted > 0))
    return {
        "DICE1": 2 * shared / (np.sum(true > 0) + np.sum(predicted > 0)),
        "DQ": 2 * len(matched) / num_nuclei,
        "SQ": matched.sum() / max(len(matched), 1),
        "PQ": 2 * matched.sum() / num_nuclei,
        "AJI": _slow_jaccard(inter, union, areas, with_pair, best[with_pair]),
        "AJI+": _slow_jaccard(inter, union, areas, rows[kept], columns[kept]),
        "DICE2": 2 * inter.sum() / (inter + union)[is_pair].sum() if is_pair.any() else 0.0,
        **f1,
        "F1@mean": float(np.mean(list(f1.values()))),
    }


def _slow_jaccard(
    inter: np.ndarray, union: np.ndarray, areas: list[np.ndarray], rows: np.ndarray, columns: np.ndarray
) -> float:
    total = union[rows, columns].sum()
    total += sum(area for row, area in enumerate(areas[0]) if row not in rows)
    total += sum(area for column, area in enumerate(areas[1]) if column not in columns)
    return inter[rows, columns].sum() / total


def make_label_map(rng: np.random.Generator, size: int = SIZE, num_nuclei: int = NUM_NUCLEI) -> np.ndarray:
    """Draw discs of radius 6 to 13 pixels, later ones on top, as a (size, size) int32 label map."""
    label_map = np.zeros((size, size), np.int32)
    y, x = np.ogrid[:size, :size]
    for nucleus in range(1, num_nuclei + 1):
        centre_y, centre_x = rng.uniform(0, size, 2)
        label_map[(y - centre_y) ** 2 + (x - centre_x) ** 2 < rng.uniform(6, 13) ** 2] = nucleus
    return label_map


def disturb(label_map: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a prediction: shifted by (2, 1) pixels, a tenth lost, a tenth merged, ids shuffled."""
    ids = np.unique(label_map)
    new_ids = np.zeros(len(ids), np.int32)
    new_ids[1:] = rng.permutation(len(ids) - 1) + 1
    new_ids[1:][rng.random(len(ids) - 1) < 0.1] = 0
    merged = np.flatnonzero(rng.random(len(ids)) < 0.1)
    new_ids[merged] = new_ids[np.maximum(merged - 1, 0)]
    return np.roll(new_ids[np.searchsorted(ids, label_map)], (2, 1), axis=(0, 1))


if __name__ == "__main__":
    main()
