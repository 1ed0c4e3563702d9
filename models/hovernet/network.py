"""HoVer-Net (Graham et al. 2019): one encoder, a decoder for each of nuclei, HV maps and types."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.hovernet.facts import ModelFacts
from models.hovernet.geometry import DENSE_UNITS, KERNELS, STEM_KERNEL, hovernet_geometry, skip_crops
from models.hovernet.layers import (
    DenseBlock,
    ResidualBlock,
    SamePadding,
    Upsample2x,
    crop,
    initialise,
    norm_relu,
)

MAX_GREY = 255.0


class HoverMaps(NamedTuple):
    """What a network gives: raw outputs, before any softmax.

    Attributes:
        nuclei: (N, 2, h, w) float logits of background and nucleus.
        hv: (N, 2, h, w) float, horizontal and vertical distance to the centre of mass, about -1..1.
        types: (N, T, h, w) float logits of the types, background first, or None.
    """

    nuclei: Tensor
    hv: Tensor
    types: Tensor | None


class HoVerNet(nn.Module):
    """The published network; its state dict has the official checkpoints' keys.

    Args:
        mode: "original" (5x5 decoders, 270 → 80) or "fast" (3x3 decoders, 256 → 164).
        num_types: number of types with background as type 0, or None for nuclei without types.

    Raises:
        ValueError: for another mode, or fewer than two types.
    """

    def __init__(self, mode: str = "fast", num_types: int | None = None) -> None:
        super().__init__()
        if mode not in KERNELS:
            raise ValueError(f"mode={mode!r} is not known; use one of: {', '.join(KERNELS)}")
        check_num_types(num_types)
        self.mode = mode
        self.num_types = num_types
        self.geometry = hovernet_geometry(mode)
        self.arguments: dict[str, Any] = {"mode": mode, "num_types": num_types}
        self.facts = ModelFacts()
        self._crops = skip_crops(mode)

        self.conv0 = _stem(mode)
        self.d0 = ResidualBlock(64, 64, 3, stride=1)
        self.d1 = ResidualBlock(256, 128, 4, stride=2)
        self.d2 = ResidualBlock(512, 256, 6, stride=2)
        self.d3 = ResidualBlock(1024, 512, 3, stride=2)
        self.conv_bot = nn.Conv2d(2048, 1024, 1, bias=False)
        branches = {} if num_types is None else {"tp": num_types}
        branches |= {"np": 2, "hv": 2}
        self.decoder = nn.ModuleDict(
            {name: _decoder(KERNELS[mode], channels) for name, channels in branches.items()}
        )
        self.upsample2x = Upsample2x()
        self.scaling: nn.Module = Scaling()
        self.entrance: nn.Module = nn.Identity()  # `fuse` puts the decoders' first convolutions here, as one
        initialise(self)

    @property
    def encoder_parts(self) -> Sequence[nn.Module]:
        """The modules that hold ImageNet's weights and stand still in the first phase of training."""
        return (self.conv0, self.d0, self.d1, self.d2, self.d3)

    def forward(self, images: Tensor) -> HoverMaps:
        """Return raw maps for (N, 3, H, W) RGB images, uint8 or float in 0..255.

        Raises:
            ValueError: where H or W does not fit the mode; the message names the sizes that do.
        """
        for size in images.shape[2:]:
            self.geometry.check(size)
        scaled = self.scaling(images.to(self.conv_bot.weight.dtype))
        d0 = self.d0(self.conv0(scaled))  # (N, 256, H, W), less the stem's loss
        d1 = self.d1(d0)  # (N, 512, H/2, W/2)
        d2 = self.d2(d1)  # (N, 1024, H/4, W/4)
        bottom = self.conv_bot(self.d3(d2))  # (N, 1024, H/8, W/8)
        entrance = self.entrance(self.upsample2x(bottom).add_(d2))
        skips = (crop(d0, self._crops.d0), crop(d1, self._crops.d1))
        maps = {name: self._decode(branch, entrance, skips) for name, branch in self.decoder.items()}
        return HoverMaps(maps["np"], maps["hv"], maps.get("tp"))

    def _decode(self, branch: nn.Module, entrance: Tensor, skips: tuple[Tensor, Tensor]) -> Tensor:
        d0, d1 = skips
        u3, u2, u1, u0 = branch.children()
        features = u3(entrance)  # (N, 512, …)
        features = u2(self.upsample2x(features).add_(d1))  # (N, 256, …)
        features = u1(self.upsample2x(features).add_(d0))  # (N, 64, h, w)
        return in_full_precision(u0, features)  # (N, channels, h, w)


class Scaling(nn.Module):
    """Brings grey levels to 0..1."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float in 0..255 -> the same in 0..1."""
        return images / MAX_GREY


def in_full_precision(layers: nn.Module, features: Tensor) -> Tensor:
    """Run the layers that give the maps in their weights' number format, whatever autocast says.

    Between neighbouring pixels HV maps change by less than bf16 can tell apart near 1.
    """
    weight = next(layers.parameters())
    with torch.autocast(features.device.type, enabled=False):
        return layers(features.to(weight.dtype))


def check_num_types(num_types: int | None) -> None:
    """Raise ValueError unless there is background and at least one type, or no types at all."""
    if num_types is not None and num_types < 2:
        raise ValueError(
            f"num_types={num_types} must be at least 2, since background counts as type 0; "
            "use null for nuclei without types"
        )


def _stem(mode: str) -> nn.Sequential:
    padding = [("pad", SamePadding(STEM_KERNEL, 1))] if mode == "fast" else []
    convolution = nn.Conv2d(3, 64, STEM_KERNEL, bias=False)
    activation = [("bn", nn.BatchNorm2d(64)), ("relu", nn.ReLU(inplace=True))]
    return nn.Sequential(OrderedDict([*padding, ("/", convolution), *activation]))


def _decoder(kernel: int, out_channels: int) -> nn.Sequential:
    u3, u2, u1, u0 = (OrderedDict[str, nn.Module]() for _ in range(4))
    u3["conva"] = nn.Conv2d(1024, 256, kernel, bias=False)
    u3["dense"] = DenseBlock(256, kernel, DENSE_UNITS["u3"])
    u3["convf"] = nn.Conv2d(512, 512, 1, bias=False)
    u2["conva"] = nn.Conv2d(512, 128, kernel, bias=False)
    u2["dense"] = DenseBlock(128, kernel, DENSE_UNITS["u2"])
    u2["convf"] = nn.Conv2d(256, 256, 1, bias=False)
    u1["conva/pad"] = SamePadding(kernel, 1)
    u1["conva"] = nn.Conv2d(256, 64, kernel, bias=False)
    u0.update(norm_relu(64).named_children())
    u0["conv"] = nn.Conv2d(64, out_channels, 1)
    blocks = {"u3": u3, "u2": u2, "u1": u1, "u0": u0}
    return nn.Sequential(OrderedDict((name, nn.Sequential(layers)) for name, layers in blocks.items()))
