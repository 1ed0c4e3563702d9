"""HoVerNetLite: a torchvision encoder, one decoder shared by the three heads, maps at half the input's resolution.

The heads work on every second pixel and their maps are enlarged bilinearly: nuclei are tens of
pixels wide at 0.25 µm/px, and the full resolution would cost as much again as all the rest.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.hovernet.encoders import torchvision
from models.hovernet.facts import ModelFacts
from models.hovernet.geometry import Geometry
from models.hovernet.layers import initialise
from models.hovernet.network import MAX_GREY, HoverMaps, check_num_types, in_full_precision

logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in 0..1; torchvision's published weights expect it
IMAGENET_STD = (0.229, 0.224, 0.225)
HEAD_CHANNELS = 32
USUAL_INPUT = 256  # px
LAST_LAYER_STD = 0.01  # of fresh weights: maps start near zero, where the losses are of order 1
OUTPUT_STRIDE = 2  # the heads' resolution
FEATURE_BYTES = 400  # a window pixel, at inference in bf16


class EncoderStage(NamedTuple):
    """Part of an encoder that ends at one resolution.

    Attributes:
        module: the layers.
        channels: channels that leave.
        stride: resolution of what leaves, as a fraction 1 / stride of the input's.
    """

    module: nn.Module
    channels: int
    stride: int


def _resnet_stages(network: Any) -> list[EncoderStage]:
    expansion = network.fc.in_features // 512  # 1 for basic blocks, 4 for bottlenecks
    channels = [64, *(base * expansion for base in (64, 128, 256, 512))]
    stem = nn.Sequential(
        OrderedDict([("conv1", network.conv1), ("bn1", network.bn1), ("relu", network.relu)])
    )
    first = nn.Sequential(OrderedDict([("maxpool", network.maxpool), ("layer1", network.layer1)]))
    modules = [stem, first, network.layer2, network.layer3, network.layer4]
    return [
        EncoderStage(module, width, 2 ** (index + 1))
        for index, (module, width) in enumerate(zip(modules, channels, strict=True))
    ]


def _efficientnet_b0_stages(network: Any) -> list[EncoderStage]:
    layers = network.features
    return [
        EncoderStage(layers[0:2], 16, 2),
        EncoderStage(layers[2:3], 24, 4),
        EncoderStage(layers[3:4], 40, 8),
        EncoderStage(layers[4:6], 112, 16),
        EncoderStage(layers[6:8], 320, 32),
    ]


def _convnext_tiny_stages(network: Any) -> list[EncoderStage]:
    layers = network.features
    return [EncoderStage(layers[2 * i : 2 * i + 2], 96 * 2**i, 4 * 2**i) for i in range(4)]


ENCODERS: dict[str, Callable[[Any], list[EncoderStage]]] = {
    "resnet18": _resnet_stages,
    "resnet50": _resnet_stages,
    "efficientnet_b0": _efficientnet_b0_stages,
    "convnext_tiny": _convnext_tiny_stages,
}


class HoVerNetLite(nn.Module):
    """Nuclei, HV maps and types from one light decoder.

    Args:
        encoder: resnet18, resnet50, efficientnet_b0 or convnext_tiny, as torchvision builds it.
        num_types: number of types with background as type 0, or None for nuclei without types.
        num_stages: how many of the encoder's stages to keep; fewer see less context and are smaller.
        decoder_channels: channels of the decoder at strides 2, 4, 8, …; the last repeats where stages are more.
        margin: pixels by which the output is smaller than the input, both sides together; even.

    Raises:
        ValueError: for an unknown encoder, a number of stages it does not have, or an odd margin.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        num_types: int | None = None,
        *,
        num_stages: int = 4,
        decoder_channels: Sequence[int] = (48, 64, 128),
        margin: int = 32,
    ) -> None:
        super().__init__()
        check_num_types(num_types)
        if margin < 0 or margin % 2:
            raise ValueError(f"margin={margin} must be even and at least 0, half of it lies on each side")
        stages = _build_stages(encoder, num_stages)
        self.num_types = num_types
        self.facts = ModelFacts()
        self.arguments: dict[str, Any] = {
            "encoder": encoder,
            "num_types": num_types,
            "num_stages": num_stages,
            "decoder_channels": list(decoder_channels),
            "margin": margin,
        }
        stride = stages[-1].stride
        smallest = margin + stride + (-margin) % stride
        name = f"HoVerNetLite({encoder}, {num_stages} stages)"
        self.geometry = Geometry(name, margin, stride, 0, smallest, USUAL_INPUT, FEATURE_BYTES)

        self.encoder = nn.ModuleList(stage.module for stage in stages)
        initialise(self.encoder)
        self.decoder = _Decoder(stages, decoder_channels)
        heads = {"np": 2, "hv": 2} | ({} if num_types is None else {"tp": num_types})
        self.heads: nn.Module = HoverNetHeads(
            {name: _head(decoder_channels[0], channels) for name, channels in heads.items()}
        )
        initialise(self.decoder)
        self.scaling: nn.Module = Standardising()

    @property
    def encoder_parts(self) -> Sequence[nn.Module]:
        """The modules that hold ImageNet's weights and stand still in the first phase of training."""
        return tuple(self.encoder)

    def forward(self, images: Tensor) -> HoverMaps:
        """Return raw maps for (N, 3, H, W) RGB images, uint8 or float in 0..255.

        Raises:
            ValueError: where H or W does not fit; the message names the sizes that do.
        """
        for size in images.shape[2:]:
            self.geometry.check(size)
        features = self.scaling(images)
        skips = []
        for stage in self.encoder:
            features = stage(features)
            skips.append(features)  # (N, C_i, H / stride_i, W / stride_i)
        decoded = self.decoder(skips)  # (N, C, H/2, W/2)
        maps = {name: self._full_size(half) for name, half in self.heads(decoded).items()}
        return HoverMaps(maps["np"], maps["hv"], maps.get("tp"))

    def _full_size(self, half: Tensor) -> Tensor:
        full = F.interpolate(half, scale_factor=OUTPUT_STRIDE, mode="bilinear", align_corners=False)
        edge = self.geometry.margin // 2
        return full[:, :, edge : full.shape[2] - edge, edge : full.shape[3] - edge]  # (N, channels, h, w)

    def load_imagenet(self) -> bool:
        """Start the encoder from torchvision's ImageNet weights if they lie in torch's cache; never downloads.

        Returns:
            whether they were there.
        """
        name = str(self.arguments["encoder"])
        weights = torchvision.models.get_model_weights(name).DEFAULT
        path = f"{torch.hub.get_dir()}/checkpoints/{weights.url.rsplit('/', 1)[-1]}"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            logger.info(
                "no ImageNet weights for %s at %s: the encoder starts from random weights", name, path
            )
            return False
        network = torchvision.models.get_model(name, weights=None)
        network.load_state_dict(state)
        for mine, stage in zip(self.encoder, ENCODERS[name](network), strict=False):
            mine.load_state_dict(stage.module.state_dict())
        return True


class Standardising(nn.Module):
    """Brings grey levels to the mean and the spread that torchvision's encoders expect."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1) * MAX_GREY, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 or float in 0..255 -> float about 0."""
        return (images.to(self.mean.dtype) - self.mean) / self.std


class HoverNetHeads(nn.ModuleDict):
    """Three small heads, each of its own on the decoder's features."""

    def forward(self, decoded: Tensor) -> dict[str, Tensor]:
        """(N, C, H/2, W/2) -> by name (N, channels, H/2, W/2)."""
        heads = {name: cast(nn.Sequential, head) for name, head in self.items()}
        return {name: in_full_precision(head[-1], head[:-1](decoded)) for name, head in heads.items()}


class _Decoder(nn.Module):
    """Doubles the deepest features step by step, joined by the encoder's at each resolution."""

    def __init__(self, stages: Sequence[EncoderStage], channels: Sequence[int]) -> None:
        super().__init__()
        skips = {stage.stride: stage.channels for stage in stages}
        self.skip_index = {stage.stride: index for index, stage in enumerate(stages)}
        self.strides = []
        self.steps = nn.ModuleList()
        stride, width = stages[-1].stride, stages[-1].channels
        while stride > OUTPUT_STRIDE:
            stride //= 2
            level = stride.bit_length() - 2  # strides 2, 4, 8, … are levels 0, 1, 2, …
            out = channels[min(level, len(channels) - 1)]
            self.steps.append(_step(width + skips.get(stride, 0), out, is_deep=stride > OUTPUT_STRIDE))
            self.strides.append(stride)
            width = out

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        """Features of every encoder stage, (N, C_i, H_i, W_i) -> (N, C, H/2, W/2)."""
        features = skips[-1]
        for stride, step in zip(self.strides, self.steps, strict=True):
            features = F.interpolate(features, scale_factor=2, mode="nearest")
            if stride in self.skip_index:
                features = torch.cat([features, skips[self.skip_index[stride]]], dim=1)
            features = step(features)
        return features


def _step(in_channels: int, out_channels: int, *, is_deep: bool) -> nn.Sequential:
    # A second convolution where it is cheap; at the output's resolution the heads have their own.
    layers = [*_conv_norm_relu(in_channels, out_channels)]
    if is_deep:
        layers += _conv_norm_relu(out_channels, out_channels)
    return nn.Sequential(*layers)


def _conv_norm_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def _head(in_channels: int, out_channels: int) -> nn.Sequential:
    layers = nn.Sequential(*_conv_norm_relu(in_channels, HEAD_CHANNELS))
    initialise(layers)
    last = nn.Conv2d(HEAD_CHANNELS, out_channels, 1)
    nn.init.normal_(last.weight, std=LAST_LAYER_STD)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return layers.append(last)


def _build_stages(encoder: str, num_stages: int) -> list[EncoderStage]:
    if encoder not in ENCODERS:
        raise ValueError(f"encoder={encoder!r} is not known; use one of: {', '.join(ENCODERS)}")
    stages = ENCODERS[encoder](torchvision.models.get_model(encoder, weights=None))
    if not 2 <= num_stages <= len(stages):
        raise ValueError(f"num_stages={num_stages} does not fit {encoder}: use 2 to {len(stages)}")
    return stages[:num_stages]
