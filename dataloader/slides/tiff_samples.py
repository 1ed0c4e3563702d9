"""A tile or strip of a TIFF, from its bytes to RGB, whatever its samples mean; for ``TiffReader``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import tifffile

from dataloader.slides.pixels import WHITE, as_rgb

APERIO_YCBCR = 33003  # the TIFF's word for JPEG 2000 in YCbCr, of which the codestream itself says nothing
CHROMA_STEP_BYTE = 46  # of a JPEG 2000 codestream: image pixels to a sample of its second component


def decode_segment(page: Any, indices: Sequence[int], data: Sequence[bytes]) -> np.ndarray:
    """Decode a tile or strip.

    Args:
        page: tifffile's, its ``decode`` and ``jpegtables`` already there.
        indices: of the segment; where colours lie in planes of their own, one a plane.
        data: the bytes of each.

    Returns:
        (h, w, 3) uint8 RGB: grey of 8 bits as it is, of fewer bits spread over 0..255, palettes by their colours.

    Raises:
        ValueError or RuntimeError: the bytes cannot be decoded; tifffile and imagecodecs raise others as well.
    """
    planes = [
        page.decode(part, index, jpegtables=page.jpegtables)[0][0]
        for index, part in zip(indices, data, strict=True)
    ]
    samples = planes[0] if len(planes) == 1 else np.concatenate(planes, -1)
    if (
        page.compression == APERIO_YCBCR and data[0][CHROMA_STEP_BYTE] == 1
    ):  # a coarser chroma is converted already
        samples = cv2.cvtColor(np.ascontiguousarray(samples[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB)
    return _as_rgb(samples, page)


def _as_rgb(samples: np.ndarray, page: Any) -> np.ndarray:
    """Return (h, w, S) samples of a page, bool or unsigned integers, as (h, w, 3) uint8 RGB."""
    photometric = page.photometric
    if photometric == tifffile.PHOTOMETRIC.PALETTE:
        return _palette(page)[samples[..., 0].astype(np.intp)]
    if photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE):
        samples = _spread(samples, page.bitspersample)
        if photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            samples = np.iinfo(samples.dtype).max - samples
        num_colours = 1
    else:
        num_colours = 3
    extra = page.extrasamples[0] if page.extrasamples else tifffile.EXTRASAMPLE.UNSPECIFIED
    if extra == tifffile.EXTRASAMPLE.UNSPECIFIED:
        return as_rgb(samples[..., :num_colours])
    return as_rgb(samples[..., : num_colours + 1], is_premultiplied=extra == tifffile.EXTRASAMPLE.ASSOCALPHA)


def _spread(samples: np.ndarray, num_bits: int) -> np.ndarray:
    """Return samples of 1, 2 or 4 bits over the whole of 0..255; those of 8 and 16 bits as they are."""
    return samples if num_bits >= 8 else samples.astype(np.uint8) * (WHITE // (2**num_bits - 1))


def _palette(page: Any) -> np.ndarray:
    """Return the (2**bits, 3) uint8 colours of a page; some programs write 8 bits where 16 belong."""
    colours = np.asarray(page.colormap, np.uint32).T
    return (colours if colours.max(initial=0) <= WHITE else (colours * WHITE + 32767) // 65535).astype(
        np.uint8
    )
