"""The building blocks of HoVer-Net; module names spell the keys of the official checkpoints."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BOTTLENECK_EXPANSION = 4
DENSE_BOTTLENECK = 128  # channels of the 1x1 convolution in a dense unit
DENSE_GROWTH = 32  # channels that a dense unit adds
DENSE_GROUPS = 4


class SamePadding(nn.Module):
    """TensorFlow's "same" padding: asymmetric, the odd pixel goes to the bottom and right.

    Args:
        kernel: kernel size in pixels.
        stride: stride in pixels of the convolution that follows.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Pad (N, C, H, W) so that the convolution gives ceil(H / stride), ceil(W / stride)."""
        height, width = self._pads(features.shape[2]), self._pads(features.shape[3])
        return F.pad(features, (*width, *height))

    def _pads(self, size: int) -> tuple[int, int]:
        rest = size % self.stride
        total = max(self.kernel - (rest or self.stride), 0)
        return total // 2, total - total // 2


def norm_relu(channels: int) -> nn.Sequential:
    """Return batch norm and ReLU under the names the checkpoints use."""
    return nn.Sequential(OrderedDict([("bn", nn.BatchNorm2d(channels)), ("relu", nn.ReLU(inplace=True))]))


class ResidualBlock(nn.Module):
    """A group of pre-activated bottleneck units (He et al. 2016b), the first of which may stride.

    Args:
        in_channels: channels that enter.
        channels: channels inside the bottleneck; four times as many leave.
        num_units: how many units.
        stride: stride of the first unit.
    """

    def __init__(self, in_channels: int, channels: int, num_units: int, *, stride: int) -> None:
        super().__init__()
        out_channels = channels * BOTTLENECK_EXPANSION
        self.units = nn.ModuleList(
            _bottleneck_unit(
                in_channels if index == 0 else out_channels,
                channels,
                stride=stride if index == 0 else 1,
                is_preactivated=index > 0,
            )
            for index in range(num_units)
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        self.blk_bna = norm_relu(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 * channels, H / stride, W / stride)."""
        shortcut = self.shortcut(features)
        for unit in self.units:
            # in place: what a convolution gave is not kept for its gradient
            features = unit(features).add_(shortcut)
            shortcut = features
        return self.blk_bna(features)


def _bottleneck_unit(in_channels: int, channels: int, *, stride: int, is_preactivated: bool) -> nn.Sequential:
    # The first unit's input is activated already, by the stem or by the block before it. No ReLU
    # at the unit's entrance may work in place: the same tensor is the shortcut.
    entrance = [("preact/bn", nn.BatchNorm2d(in_channels)), ("preact/relu", nn.ReLU(inplace=True))]
    return nn.Sequential(
        OrderedDict(
            [
                *(entrance if is_preactivated else []),
                ("conv1", nn.Conv2d(in_channels, channels, 1, bias=False)),
                ("conv1/bn", nn.BatchNorm2d(channels)),
                ("conv1/relu", nn.ReLU(inplace=True)),
                ("conv2/pad", SamePadding(3, stride)),
                ("conv2", nn.Conv2d(channels, channels, 3, stride=stride, bias=False)),
                ("conv2/bn", nn.BatchNorm2d(channels)),
                ("conv2/relu", nn.ReLU(inplace=True)),
                ("conv3", nn.Conv2d(channels, channels * BOTTLENECK_EXPANSION, 1, bias=False)),
            ]
        )
    )


class DenseBlock(nn.Module):
    """Densely connected units of valid convolutions; features are cropped to meet what each unit adds.

    Args:
        in_channels: channels that enter.
        kernel: size of the grouped convolution in pixels.
        num_units: how many units; each adds 32 channels and costs kernel - 1 pixels.
    """

    def __init__(self, in_channels: int, kernel: int, num_units: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            _dense_unit(in_channels + index * DENSE_GROWTH, kernel) for index in range(num_units)
        )
        self.out_channels = in_channels + num_units * DENSE_GROWTH
        self.blk_bna = norm_relu(self.out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H - loss, W - loss), loss = units * (kernel - 1)."""
        for unit in self.units:
            new = unit(features)
            features = torch.cat([crop_to(features, new), new], dim=1)
        return self.blk_bna(features)


def _dense_unit(in_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            [
                ("preact_bna/bn", nn.BatchNorm2d(in_channels)),
                ("preact_bna/relu", nn.ReLU(inplace=True)),
                ("conv1", nn.Conv2d(in_channels, DENSE_BOTTLENECK, 1, bias=False)),
                ("conv1/bn", nn.BatchNorm2d(DENSE_BOTTLENECK)),
                ("conv1/relu", nn.ReLU(inplace=True)),
                ("conv2", nn.Conv2d(DENSE_BOTTLENECK, DENSE_GROWTH, kernel, groups=DENSE_GROUPS, bias=False)),
            ]
        )
    )


class Upsample2x(nn.Module):
    """Nearest-neighbour doubling.

    The buffer is not used: the reference multiplies with it, and its checkpoints hold it.
    """

    unpool_mat: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unpool_mat", torch.ones(2, 2))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        return F.interpolate(features, scale_factor=2, mode="nearest")


def crop(features: Tensor, loss: int) -> Tensor:
    """Crop `loss` pixels from the height and the width of (N, C, H, W), the odd one at the bottom and right."""
    start = loss // 2
    height, width = features.shape[2] - loss, features.shape[3] - loss
    return features[:, :, start : start + height, start : start + width]


def crop_to(features: Tensor, smaller: Tensor) -> Tensor:
    """Crop (N, C, H, W) about its centre to the height and width of `smaller`."""
    return crop(features, features.shape[2] - smaller.shape[2])


def initialise(network: nn.Module) -> None:
    """Set fresh weights: He et al. 2015 (fan out) for convolutions, 1 and 0 for batch norm."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
