"""From the true and predicted nuclei of one image to what its scores are counted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metrics.detection import RADIUS, TypedDetections, detect_types, pair_centroids
from metrics.matches import Matches
from metrics.overlap import Overlap
from metrics.segmentation import aji, aji_plus, dice, dice2, f1_by_iou, panoptic_quality
from run_utils.image_nuclei import ImageNuclei, label_maps_of, types_of


@dataclass(frozen=True)
class TypeScheme:
    """What types are called, and which types of the truth count as one.

    Attributes:
        names: name of each type, background first; empty for the types that occur, by number.
        merged: the type that each type of the truth counts as, background first; empty leaves them.
    """

    names: Sequence[str] = ()
    merged: Sequence[int] = ()

    def merge(self, types: np.ndarray) -> np.ndarray:
        """Return (K,) types of the truth merged; -1, unlabelled, stays.

        Raises:
            ValueError: for a type that the scheme does not merge.
        """
        if not self.merged:
            return types
        if types.max(initial=0) >= len(self.merged):
            raise ValueError(
                f"type {types.max()} has no place in merge_types={list(self.merged)}; give one for each type"
            )
        return np.where(types < 0, types, np.asarray(self.merged, types.dtype)[np.maximum(types, 0)])

    def check(self, types: np.ndarray) -> None:
        """Raise ValueError for a type (K,) without a name."""
        if self.names and types.max(initial=0) >= len(self.names):
            raise ValueError(
                f"type {types.max()} has no name among {list(self.names)}; name every type, or merge the truth's "
                "into fewer with merge_types"
            )


@dataclass(frozen=True)
class MeasuredImage:
    """What the scores of one image are counted from; None for what its files do not allow or the mode leaves out.

    Attributes:
        scores: instance scores by name.
        matches: nuclei with their matches by IoU, typed where both files have types.
        detections: types of the nuclei paired by centroid.
        num_nuclei: of the truth and of the prediction.
        tissue: "" where unknown.
        untyped_source: a file of the image that holds no types; "" where both do.
    """

    scores: dict[str, float] | None
    matches: Matches | None
    detections: TypedDetections | None
    num_nuclei: tuple[int, int]
    tissue: str = ""
    untyped_source: str = ""


def measure_image(
    true: ImageNuclei, predicted: ImageNuclei, *, mode: str, radius: float, scheme: TypeScheme
) -> MeasuredImage:
    """Compare two files' nuclei of one image.

    Args:
        true: nuclei of the truth.
        predicted: nuclei of the prediction.
        mode: "instance", "type", or "all" that the files allow.
        radius: largest distance of paired centroids, in pixels.
        scheme: what types are called and which of the truth count as one.

    Raises:
        ValueError: where the files do not hold what the mode needs, or do not fit each other or the scheme; the
            message names the file.
    """
    has_shapes = true.has_pixels and predicted.has_pixels
    if not has_shapes and mode == "instance":
        side = predicted if true.has_pixels else true
        raise ValueError(f"{side.source} holds points without shapes; evaluate it with mode=type")
    untyped = [side.source for side in (true, predicted) if side.types is None]
    if untyped and (mode == "type" or not has_shapes):
        raise ValueError(
            f"{untyped[0]} holds no types; evaluate it with mode=instance, or give type_names=[…] where it names them"
        )
    types = _types(true, predicted, scheme) if not untyped and mode != "instance" else None
    overlap = Overlap.of(*label_maps_of(true, predicted)) if has_shapes else None
    detections = None
    if types is not None:
        assert true.centroids is not None and predicted.centroids is not None, "typed nuclei have them"
        pairing = pair_centroids(true.centroids, predicted.centroids, radius)
        detections = detect_types(pairing, *types)
    return MeasuredImage(
        scores=None if overlap is None or mode == "type" else instance_scores(overlap),
        matches=None if overlap is None else _match(overlap, true, predicted, types),
        detections=detections,
        num_nuclei=_count(overlap, types),
        tissue=true.tissue,
        untyped_source=untyped[0] if untyped else "",
    )


def score_pair(true_label_map: np.ndarray, predicted_label_map: np.ndarray) -> dict[str, float]:
    """Return DICE1, DICE2, AJI, AJI+, DQ, SQ and PQ of one image, 0..1; all nan without nuclei.

    Args:
        true_label_map: (H, W) integer, 0 background; ids may have gaps.
        predicted_label_map: (H, W) integer of the same image.

    Raises:
        ValueError: for maps that cannot be compared (shape, dtype, negative ids).
    """
    return _published_scores(Overlap.of(true_label_map, predicted_label_map))


def instance_scores(overlap: Overlap) -> dict[str, float]:
    """Return the scores of ``score_pair``, then F1 above each IoU and their mean."""
    return {**_published_scores(overlap), **f1_by_iou(overlap)}


def match_types(
    true: tuple[np.ndarray, np.ndarray], predicted: tuple[np.ndarray, np.ndarray], *, radius: float = RADIUS
) -> TypedDetections:
    """Pair the nuclei of one image and keep their types, to be pooled by ``score_types``.

    Args:
        true: centroids (K, 2) in pixels and types (K,) integer, -1 unlabelled.
        predicted: centroids (L, 2) in the same frame and order of axes, and types (L,) integer.
        radius: largest distance of a pair, in pixels (12 at 40x, 6 at 20x).
    """
    return detect_types(pair_centroids(true[0], predicted[0], radius), true[1], predicted[1])


def _published_scores(overlap: Overlap) -> dict[str, float]:
    quality = panoptic_quality(overlap)
    return {
        "DICE1": dice(overlap),
        "DICE2": dice2(overlap),
        "AJI": aji(overlap),
        "AJI+": aji_plus(overlap),
        "DQ": quality.dq,
        "SQ": quality.sq,
        "PQ": quality.pq,
    }


def _types(true: ImageNuclei, predicted: ImageNuclei, scheme: TypeScheme) -> tuple[np.ndarray, np.ndarray]:
    """Return the types (K,) of the truth, merged, and those (L,) of the prediction, each with a name."""
    assert true.types is not None and predicted.types is not None
    found = []
    for side, merge in ((true, scheme.merge), (predicted, np.asarray)):
        try:
            assert side.types is not None
            types = merge(side.types)
            scheme.check(types)
        except ValueError as error:
            raise ValueError(f"{side.source}: {error}") from error
        found.append(types)
    return found[0], found[1]


def _match(
    overlap: Overlap,
    true: ImageNuclei,
    predicted: ImageNuclei,
    types: tuple[np.ndarray, np.ndarray] | None,
) -> Matches:
    """Return the matches of an image; outlines that others cover wholly have no pixel and are left out."""
    if types is None:
        return Matches.of(overlap)
    return Matches.of(
        overlap,
        types_of(true, types[0], overlap.true_ids),
        types_of(predicted, types[1], overlap.predicted_ids),
    )


def _count(overlap: Overlap | None, types: tuple[np.ndarray, np.ndarray] | None) -> tuple[int, int]:
    if types is not None:
        return len(types[0]), len(types[1])
    assert overlap is not None
    return len(overlap.true_ids), len(overlap.predicted_ids)
