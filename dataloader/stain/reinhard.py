"""Reinhard's colour transfer, in CIE L*a*b*: the tissue takes the target's mean and spread, background stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from dataloader.stain.apply import recolour
from dataloader.stain.arrays import load_gpu, look_up_tensor, namespace_of, sample_pixels, to_host
from dataloader.stain.density import ROBUST, give_up, too_little
from dataloader.stain.fade import fade_block, fade_tensor
from dataloader.stain.lab import LINEAR, lab_to_rgb, rgb_to_lab
from dataloader.stain.sources import as_sources, resolve_target
from dataloader.stain.statistics import StainStatistics

CONSEP_TARGET = StainStatistics("reinhard", lab_mean=(63.87, 26.81, -21.20), lab_std=(11.01, 5.85, 7.68))
"""Mean over the 27 training images of CoNSeP (Graham et al. 2019) of what :class:`ReinhardNormalizer` fits on each."""
MIN_STD = 0.5
"""Of L*, a* and b*, below a just noticeable difference: of one colour no spread can be scaled."""


MIN_CHROMA = 6.0
"""Of the tissue's mean colour; H&E has 20 to 45, grey with a camera's noise next to none."""


class ReinhardNormalizer:
    """Match mean and standard deviation of L*, a*, b* over tissue (Reinhard et al. 2001, there in l-alpha-beta).

    Args:
        target: statistics, an image to fit them on, or a JSON file of them; by default those of CoNSeP.
        max_pixels: how many pixels a fit looks at, evenly spread; None takes all.

    Raises:
        ValueError: if ``target`` holds no L*a*b* statistics.
    """

    method = "reinhard"

    def __init__(self, target: Any = CONSEP_TARGET, *, max_pixels: int | None = 2**20) -> None:
        self.max_pixels = max_pixels
        self.source: StainStatistics | None = None
        self.target = resolve_target(target, self.estimate)
        LabShift([self.target], self.target)

    def estimate(self, images: Any) -> StainStatistics:
        """Return mean and spread of the tissue of an image, or of pixels of a slide; nothing is kept.

        Takes and refuses what ``MacenkoNormalizer.estimate`` does; too little tissue gives the identity likewise.
        """
        pixels = sample_pixels(images, self.max_pixels)
        pixels = pixels[ROBUST.find_tissue(pixels)]
        if identity := too_little(len(pixels)):
            return identity
        xp = namespace_of(pixels)
        lab = xp.stack(rgb_to_lab(xp.asarray(LINEAR)[pixels.T], xp))
        mean, deviation = (to_host(lab.mean(1, dtype=np.float64)), to_host(lab.std(1, dtype=np.float64)))
        chroma = float(np.hypot(mean[1], mean[2]))
        if chroma < MIN_CHROMA:
            return give_up(f"the mean colour has a chroma of {chroma:.1f}, {MIN_CHROMA:g} is needed: grey")
        if deviation.min() < MIN_STD:
            return give_up(
                f"L*a*b* spread by {deviation.round(2)}, {MIN_STD} is needed of each: one colour, or grey"
            )
        return StainStatistics("reinhard", lab_mean=tuple(mean), lab_std=tuple(deviation))  # type: ignore[arg-type]

    def fit(self, images: Any) -> ReinhardNormalizer:
        """Keep the statistics of an image or slide as those that :meth:`transform` starts from."""
        self.source = self.estimate(images)
        return self

    def transform(
        self, images: Any, source: StainStatistics | Sequence[StainStatistics] | None = None
    ) -> Any:
        """Return images in the target's colours; arguments, result and errors as of ``MacenkoNormalizer.transform``."""
        return recolour(images, LabShift(as_sources(source, self.source), self.target))


class LabShift:
    """An affine change of L*, a* and b*, which fades out where background begins.

    Args:
        sources: one for all images or one each; the identity leaves an image as it is.
        target: whose mean and spread they get.
    """

    def __init__(self, sources: Sequence[StainStatistics], target: StainStatistics) -> None:
        self.num_sources = len(sources)
        scale, shift = np.ones((self.num_sources, 3)), np.zeros((self.num_sources, 3))
        self.unchanged = np.array([source.is_identity or target.is_identity for source in sources])
        for number, source in enumerate(sources):
            if self.unchanged[number]:
                continue
            for statistics in (source, target):
                if statistics.lab_mean is None:
                    raise ValueError(
                        f"statistics of '{statistics.method}' hold no L*a*b*; fit them with reinhard"
                    )
            scale[number] = np.asarray(target.lab_std) / np.asarray(source.lab_std)
            shift[number] = np.asarray(target.lab_mean) - scale[number] * np.asarray(source.lab_mean)
        self.scale, self.shift = scale.astype(np.float32), shift.astype(np.float32)

    def is_unchanged(self, number: int) -> bool:
        """Return whether source ``number`` leaves its image as it is."""
        return bool(self.unchanged[number])

    def recolour_block(self, block: np.ndarray, number: int) -> np.ndarray:
        """Return (h, W, 3) float32 grey levels, rounded; OpenCV's L*a*b* is ours to a tenth of a grey level."""
        lab = cv2.cvtColor(block.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
        affine = np.column_stack([np.diag(self.scale[number]), self.shift[number]])
        values = 255 * cv2.cvtColor(cv2.transform(lab, affine), cv2.COLOR_Lab2RGB)
        values = fade_block(block, np.clip(values, 0, 255, out=values))
        return np.rint(values, out=values)

    def recolour_tensor(self, images: Tensor) -> Tensor:
        """Return (N, 3, H, W) float32 grey levels; see ``Recolouring``."""
        linear = look_up_tensor(LINEAR, images)
        scale, shift = (
            torch.from_numpy(part).to(images.device)[..., None, None] for part in (self.scale, self.shift)
        )
        lab = rgb_to_lab(linear.unbind(1), torch)
        lab = [scale[:, axis] * lab[axis] + shift[:, axis] for axis in range(3)]
        return fade_tensor(images, torch.stack(lab_to_rgb(lab, torch), 1).clamp_(0, 255))

    def recolour_cupy(self, source: Any, result: Any) -> None:
        """Write (N, H, W, 3) uint8 CuPy by one kernel; see ``Recolouring``."""
        load_gpu().shift_lab(source, result, self)
