"""A network as inference runs it: fewer layers, the same maps. Training and checkpoints keep the original."""

from __future__ import annotations

import copy
import itertools
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.hovernet.checkpoint import Network
from models.hovernet.lite import HoverNetHeads, Standardising
from models.hovernet.network import MAX_GREY, HoVerNet, Scaling, in_full_precision


def fuse(network: Network, *, merge_decoders: bool = False) -> Network:
    """Return a copy of a network for inference that gives the same maps to 1e-4 in fp32.

    Batch norms that follow a convolution become part of it, and so does the scaling of grey levels. Convolutions
    that read the same features run as one where that is faster: the first ones of the lite network's heads always;
    those of HoVerNet's decoders on request, since on a CPU they fill it as they are.

    Args:
        network: left as it is.
        merge_decoders: run the decoders' first convolutions as one.

    Returns:
        A network in eval mode, with the same `geometry`, `num_types` and `facts`; it cannot be trained or saved.
    """
    fused = copy.deepcopy(network).eval()
    fold_batch_norms(fused)
    stem = next(module for module in fused.modules() if isinstance(module, nn.Conv2d))
    _fold_scaling(fused, stem)
    if isinstance(fused, HoVerNet):
        if merge_decoders:
            _merge_decoders(fused)
    else:
        fused.heads = MergedHeads(cast(HoverNetHeads, fused.heads))
    return fused.requires_grad_(False)


def fold_batch_norms(module: nn.Module) -> None:
    """Make each batch norm that directly follows a convolution among a module's children part of it, in place."""
    children = list(module.named_children())
    for (name, child), (next_name, following) in itertools.pairwise([*children, ("", None)]):
        if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            module._modules[name] = fuse_conv_bn_eval(child, following)
            module._modules[next_name] = nn.Identity()
        elif child is not None:
            fold_batch_norms(child)


def _fold_scaling(network: nn.Module, stem: nn.Conv2d) -> None:
    """Let the first convolution divide; what is subtracted before stays, for the sake of zeros that pad the border."""
    scaling = network.scaling
    if isinstance(scaling, Scaling):
        stem.weight.data /= MAX_GREY
        network.scaling = nn.Identity()
    elif isinstance(scaling, Standardising):
        stem.weight.data /= scaling.std
        scaling.std = torch.ones(())


class ChannelSlice(nn.Module):
    """Takes some channels of (N, C, H, W) features.

    Args:
        start: the first.
        stop: the one after the last.
    """

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start = start
        self.stop = stop

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, stop - start, H, W), a view."""
        return features[:, self.start : self.stop]


def _merge_decoders(network: HoVerNet) -> None:
    branches = [cast(nn.Sequential, branch.get_submodule("u3")) for branch in network.decoder.values()]
    convolutions = [cast(nn.Conv2d, branch.get_submodule("conva")) for branch in branches]
    network.entrance = _side_by_side(convolutions)
    start = 0
    for branch, convolution in zip(branches, convolutions, strict=True):
        stop = start + convolution.out_channels
        branch._modules["conva"] = ChannelSlice(start, stop)
        start = stop


def _side_by_side(convolutions: list[nn.Conv2d]) -> nn.Conv2d:
    """Return one convolution that gives the channels of several on the same features, one after another."""
    first = convolutions[0]
    merged = copy.copy(first)
    merged._parameters = dict(first._parameters)
    merged.out_channels = sum(convolution.out_channels for convolution in convolutions)
    merged.weight = nn.Parameter(torch.cat([convolution.weight for convolution in convolutions]))
    if first.bias is not None:
        biases = [cast(Tensor, convolution.bias) for convolution in convolutions]
        merged.bias = nn.Parameter(torch.cat(biases))
    return merged


class MergedHeads(nn.Module):
    """The lite network's heads with their first convolutions, and their last, as one each.

    Args:
        heads: with batch norms folded.
    """

    def __init__(self, heads: HoverNetHeads) -> None:
        super().__init__()
        branches = [cast(nn.Sequential, head) for head in heads.values()]
        self.names = list(heads)
        self.first = _side_by_side([cast(nn.Conv2d, branch[0]) for branch in branches])
        last = [cast(nn.Conv2d, branch[-1]) for branch in branches]
        self.sizes = [convolution.out_channels for convolution in last]
        self.last = _block_diagonal(last)

    def forward(self, decoded: Tensor) -> dict[str, Tensor]:
        """(N, C, H/2, W/2) -> by name (N, channels, H/2, W/2)."""
        maps = in_full_precision(self.last, self.first(decoded).relu_())
        return dict(zip(self.names, maps.split(self.sizes, dim=1), strict=True))


def _block_diagonal(convolutions: list[nn.Conv2d]) -> nn.Conv2d:
    """Return one 1x1 convolution for several that each read their own share of the channels."""
    merged = nn.Conv2d(
        sum(convolution.in_channels for convolution in convolutions),
        sum(convolution.out_channels for convolution in convolutions),
        1,
    )
    blocks = torch.block_diag(*(convolution.weight[:, :, 0, 0] for convolution in convolutions))
    merged.weight = nn.Parameter(blocks[:, :, None, None])
    merged.bias = nn.Parameter(torch.cat([cast(Tensor, convolution.bias) for convolution in convolutions]))
    return merged
