"""Batch norm by the whole batch, of which each process holds a share; in one process it is never used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from run_utils.distributed import sum_of_processes


class SyncedBatchNorm(nn.BatchNorm2d):
    """A batch norm that in training takes mean and variance over all processes' images; torch's has no CPU kernels."""

    @torch.compiler.disable
    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same, each channel normalised, scaled and shifted."""
        if not self.training:
            return super().forward(input)
        assert self.weight is not None
        return self._normalise(input.to(self.weight.dtype)).to(input.dtype)

    def _normalise(self, features: Tensor) -> Tensor:
        axes = (0, 2, 3)
        num_values = features.new_tensor([features.numel() / self.num_features])  # of a channel
        sums = sum_of_processes(torch.cat([features.sum(axes), num_values]))
        count = sums[-1].detach()
        centred = features - (sums[:-1] / count)[:, None, None]
        variance = sum_of_processes(centred.square().sum(axes)) / count
        self._move_statistics(sums[:-1] / count, variance * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _move_statistics(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.momentum is not None, "our networks average exponentially"
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)
        self.num_batches_tracked.add_(1)


class SyncedBatchNormOfGpu(nn.SyncBatchNorm, nn.BatchNorm2d):
    """torch's, which for whoever fuses layers is a `BatchNorm2d` as well."""

    process_group = None  # all processes

    @torch.compiler.disable
    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same, each channel normalised, scaled and shifted."""
        return super().forward(input)


def sync_batch_norms(network: nn.Module) -> None:
    """Make every batch norm of a network see the images of all processes, in place; weights and their names stay.

    The network must lie on its device.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            # Another class for the same object: whoever holds the module, or its weights, holds it still.
            is_on_gpu = module.running_mean is not None and module.running_mean.is_cuda
            module.__class__ = SyncedBatchNormOfGpu if is_on_gpu else SyncedBatchNorm
