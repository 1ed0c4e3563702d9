"""The loss that trains HoVer-Net: two terms a branch, weighted and summed (Graham et al. 2019, Eq. 1-6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.hovernet.channels import NUCLEUS
from models.hovernet.network import HoverMaps
from models.hovernet.targets import Targets

TERMS = ("np_ce", "np_dice", "hv_mse", "hv_msge", "nc_ce", "nc_dice")
"""The terms, by the paper's branches: NP nuclei, HV maps, NC types."""

DICE_SMOOTHING = 1e-3
"""Pixels added above and below the fraction, so that an absent class gives a dice of 1."""

GRADIENT_KERNEL_SIZE = 5
"""Pixels; the reference's kernel for gradients of HV maps."""

GRADIENT_EPSILON = 1e-8
"""Added to the number of nuclear pixels, so that a patch without nuclei gives 0."""

SumOverProcesses = Callable[[Tensor], Tensor]
"""Adds up a tensor of every process that holds a share of the batch, differentiably; all get the sum."""


class HoVerLoss(nn.Module):
    """The weighted sum of the six terms, computed in float32 on the maps' device.

    Args:
        weights: factor of each term that is not to count once; the keys are in ``TERMS``.
        class_weights: one factor a type for the cross entropy of types, background first.
        focal_gamma: exponent of (1 - p) in the cross entropies (Lin et al. 2017); 0 is plain cross entropy.
        legacy: take gradients of each HV map across its own axis, as the reference does, not along it.
        sum_over: where processes share a batch, adds up what they count: each gets the loss of the whole batch. None
            where one process has it all.

    Raises:
        ValueError: for an unknown term, a negative weight or a negative exponent.
    """

    gradient_kernels: Tensor
    class_weights: Tensor | None

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        class_weights: Sequence[float] | None = None,
        *,
        focal_gamma: float = 0.0,
        legacy: bool = False,
        sum_over: SumOverProcesses | None = None,
    ) -> None:
        super().__init__()
        weights = weights or {}
        unknown = sorted(set(weights) - set(TERMS))
        if unknown:
            raise ValueError(f"weights name unknown terms {unknown}; use some of: {', '.join(TERMS)}")
        if focal_gamma < 0 or min([*weights.values(), *(class_weights or ())], default=0) < 0:
            raise ValueError(
                f"focal_gamma={focal_gamma}, weights={dict(weights)} and class_weights={class_weights} "
                "must not be negative; use 0 to switch a term or a type off"
            )
        self.weights = {term: float(weights.get(term, 1.0)) for term in TERMS}
        self.focal_gamma = focal_gamma
        self.sum_over = sum_over
        self.register_buffer("gradient_kernels", _gradient_kernels(legacy=legacy), persistent=False)
        factors = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", factors, persistent=False)

    def forward(self, maps: HoverMaps, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total to minimise, and its terms before weighting.

        Args:
            maps: the network's outputs; logits (N, 2, h, w), HV (N, 2, h, w), logits (N, T, h, w) or None.
            targets: what they should be, of the same h and w.

        Returns:
            total: () float32.
            terms: () float32 each, detached; the two of types only where maps and targets have them.

        Raises:
            ValueError: if maps and targets differ in size, or (seen on the CPU only) a type is not in 0..T-1.
        """
        _check(maps, targets)
        with torch.autocast(maps.nuclei.device.type, enabled=False):
            terms = self._terms(maps, targets)
            total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return total, {name: term.detach() for name, term in terms.items()}

    def _terms(self, maps: HoverMaps, targets: Targets) -> dict[str, Tensor]:
        nuclei, hv = maps.nuclei.float(), maps.hv.float()
        terms = {}
        terms["np_ce"], terms["np_dice"] = self._class_terms(nuclei, targets.nuclei, None)
        terms["hv_mse"] = square_error(hv, targets.hv, self.sum_over)
        is_nucleus = targets.nuclei == NUCLEUS
        terms["hv_msge"] = gradient_error(hv, targets.hv, is_nucleus, self.gradient_kernels, self.sum_over)
        if maps.types is not None and targets.types is not None:
            terms["nc_ce"], terms["nc_dice"] = self._class_terms(
                maps.types.float(), targets.types, self.class_weights
            )
        return terms

    def _class_terms(
        self, logits: Tensor, target: Tensor, class_weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        log_probability = F.log_softmax(logits, dim=1)
        cross = cross_entropy(log_probability, target, class_weights, self.focal_gamma, self.sum_over)
        return cross, dice_loss(log_probability.exp(), target, self.sum_over)


def cross_entropy(
    log_probability: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    focal_gamma: float = 0.0,
    sum_over: SumOverProcesses | None = None,
) -> Tensor:
    """Return the mean over pixels of -log p of the true class; pixels weigh as their class does.

    The reference clamps p to 1e-7..1 - 1e-7 before the logarithm; up to that the two are the same.

    Args:
        log_probability: (N, C, h, w) float32, logarithms of the predicted shares.
        target: (N, h, w) int64 in 0..C-1.
        class_weights: (C,) float32, or None for all 1; the mean is over weights, so their scale is free.
        focal_gamma: exponent of (1 - p), which plays down pixels already right (Lin et al. 2017, Eq. 4).
        sum_over: see ``HoVerLoss``.
    """
    if focal_gamma == 0 and sum_over is None:
        return F.nll_loss(log_probability, target, weight=class_weights)
    log_true = log_probability.gather(1, target[:, None]).squeeze(1)
    loss = -log_true
    if focal_gamma:
        loss = (1 - log_true.exp()).clamp(min=0) ** focal_gamma * loss
    return _mean(loss, None if class_weights is None else class_weights[target], sum_over)


def dice_loss(probability: Tensor, target: Tensor, sum_over: SumOverProcesses | None = None) -> Tensor:
    """Return 1 - dice, summed over classes; each class's dice is over all pixels of the batch.

    Graham et al. 2019, Eq. 6, with the reference's smoothing: (2 Σ p t + s) / (Σ p + Σ t + s).

    Args:
        probability: (N, C, h, w) float32 in 0..1.
        target: (N, h, w) int64 in 0..C-1.
        sum_over: see ``HoVerLoss``.
    """
    truth = torch.zeros_like(probability).scatter_(1, target[:, None], 1.0)
    both = (probability * truth).sum(dim=(0, 2, 3))
    either = probability.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    if sum_over is not None:
        both, either = sum_over(torch.stack([both, either]))
    return (1 - (2 * both + DICE_SMOOTHING) / (either + DICE_SMOOTHING)).sum()


def square_error(hv: Tensor, target: Tensor, sum_over: SumOverProcesses | None = None) -> Tensor:
    """Return the mean squared error of HV maps over all pixels (Graham et al. 2019, Eq. 3).

    Args:
        hv: (N, 2, h, w) float32, predicted.
        target: (N, 2, h, w) float32, true.
        sum_over: see ``HoVerLoss``.
    """
    if sum_over is None:
        return F.mse_loss(hv, target)
    return _mean((hv - target).square(), None, sum_over)


def gradient_error(
    hv: Tensor,
    target: Tensor,
    is_nucleus: Tensor,
    kernels: Tensor,
    sum_over: SumOverProcesses | None = None,
) -> Tensor:
    """Return the mean squared error of HV gradients over nuclear pixels (Graham et al. 2019, Eq. 4).

    Args:
        hv: (N, 2, h, w) float32, predicted.
        target: (N, 2, h, w) float32, true.
        is_nucleus: (N, h, w) bool, where the error counts.
        kernels: (2, 1, 5, 5) float32, the derivative for each channel.
        sum_over: see ``HoVerLoss``.
    """
    # Differences of gradients are gradients of differences: one pass instead of two.
    errors = F.conv2d(hv - target, kernels, padding=GRADIENT_KERNEL_SIZE // 2, groups=2)
    focus = is_nucleus[:, None].expand_as(errors).float()
    error, count = (focus * errors.square()).sum(), focus.sum()
    if sum_over is not None:
        error, count = sum_over(torch.stack([error, count]))
    return error / (count + GRADIENT_EPSILON)


def _mean(values: Tensor, weights: Tensor | None, sum_over: SumOverProcesses | None) -> Tensor:
    """Return the mean of values, by weights of the same shape where they are given, over all processes."""
    if sum_over is None and weights is None:
        return values.mean()
    total = values.sum() if weights is None else (weights * values).sum()
    count = total.new_full((), values.numel()) if weights is None else weights.sum()
    if sum_over is not None:
        total, count = sum_over(torch.stack([total, count]))
    return total / count


def _gradient_kernels(*, legacy: bool) -> Tensor:
    """Return (2, 1, 5, 5) kernels offset / (y² + x²), along each channel's axis (``legacy``: the other)."""
    radius = GRADIENT_KERNEL_SIZE // 2
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    squares = (y.square() + x.square()).clamp(min=1)
    along_x, along_y = x / squares, y / squares
    horizontal, vertical = (along_y, along_x) if legacy else (along_x, along_y)
    return torch.stack([horizontal, vertical])[:, None]


def _check(maps: HoverMaps, targets: Targets) -> None:
    if maps.hv.shape != targets.hv.shape or maps.nuclei.shape[2:] != targets.nuclei.shape[1:]:
        raise ValueError(
            f"maps have hv {tuple(maps.hv.shape)}, targets {tuple(targets.hv.shape)}, but must agree; "
            "make the targets with the network's output size"
        )
    if maps.types is None or targets.types is None or targets.types.is_cuda:
        return
    lowest, highest = targets.types.aminmax()
    last = maps.types.shape[1] - 1
    if lowest < 0 or highest > last:
        raise ValueError(
            f"types run from {int(lowest)} to {int(highest)}, but the network has types 0 to {last}; "
            "set num_types to the highest type plus 1"
        )
