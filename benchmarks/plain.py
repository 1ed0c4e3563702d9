"""The straightforward versions, one nucleus after another, that the figures and the tests compare with."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed


def plain_hv(label_map: np.ndarray) -> np.ndarray:
    """Encode (H, W) ids as (2, H, W) float32 HV maps: each nucleus compared with the whole patch."""
    hv = np.zeros((2, *label_map.shape), np.float32)
    for nucleus in np.unique(label_map[label_map > 0]):
        y, x = np.nonzero(label_map == nucleus)
        for channel, positions in ((0, x), (1, y)):
            offset = positions - positions.mean()
            offset[np.abs(offset) < 1e-9] = 0
            for side in (offset < 0, offset > 0):
                if side.any():
                    offset[side] /= np.abs(offset[side]).max()
            hv[channel, y, x] = offset
    return hv


def plain_label_map(nuclei_probability: np.ndarray, hv: np.ndarray) -> np.ndarray:
    """Decode as the reference does, scaling over the window: (H, W) ids with gaps."""
    blob = _without_small(nuclei_probability >= 0.5) > 0
    strengths = []
    for channel, order in ((0, (1, 0)), (1, (0, 1))):
        unit = cv2.normalize(hv[channel], None, 0, 1, cv2.NORM_MINMAX, cv2.CV_32F)
        gradient = cv2.Sobel(unit, cv2.CV_64F, *order, ksize=21)
        strengths.append(1 - cv2.normalize(gradient, None, 0, 1, cv2.NORM_MINMAX, cv2.CV_32F))
    overall = np.maximum(*strengths) - (1 - blob.astype(np.int32))
    overall[overall < 0] = 0
    depth = -cv2.GaussianBlur((1 - overall) * blob, (3, 3), 0)
    marker = np.maximum(blob.astype(np.int32) - (overall >= 0.4), 0)
    marker = ndimage.binary_fill_holes(marker).astype(np.uint8)
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    marker = _without_small(cv2.morphologyEx(marker, cv2.MORPH_OPEN, ellipse))
    return watershed(depth, markers=marker, mask=blob)


def _without_small(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    is_small = np.bincount(labels.ravel()) < 10
    return np.where(is_small[labels], 0, labels)


def plain_nuclei(label_map: np.ndarray, type_map: np.ndarray | None = None) -> dict[int, dict]:
    """Measure each nucleus against the whole map: box, centroid (x, y), contour (x, y), type, share."""
    nuclei = {}
    for nucleus in np.unique(label_map[label_map > 0]):
        mask = label_map == nucleus
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        crop = mask[top:bottom, left:right].astype(np.uint8)
        moments = cv2.moments(crop)
        contour = cv2.findContours(crop, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0][0][:, 0]
        facts = {
            "box": (top, left, bottom, right),
            "centroid": (moments["m10"] / moments["m00"] + left, moments["m01"] / moments["m00"] + top),
            "contour": contour + (left, top),
        }
        if type_map is not None:
            facts["type"], facts["share"] = _plain_type(type_map[mask])
        nuclei[int(nucleus)] = facts
    return nuclei


def _plain_type(votes: np.ndarray) -> tuple[int, float]:
    """Return the most frequent vote and its share; the second, if any, where the first is background."""
    types, counts = np.unique(votes, return_counts=True)
    ranked = sorted(zip(types, counts, strict=True), key=lambda pair: pair[1], reverse=True)
    best = ranked[1] if ranked[0][0] == 0 and len(ranked) > 1 else ranked[0]
    return int(best[0]), best[1] / len(votes)
