"""How training calls the network: as it is, compiled, or with activations computed twice to save memory.

The network itself stays what it was, module by module: checkpoints, averages and validation know of nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from config.schema import TrainSettings
from models.hovernet.checkpoint import Network
from models.hovernet.lite import HoVerNetLite
from models.hovernet.network import HoverMaps, HoVerNet
from run_utils.devices import check_compiler

Forward = Callable[[Tensor], HoverMaps]

DECODER_BLOCKS: dict[type[nn.Module], Callable[[Any], list[nn.Module]]] = {
    HoVerNet: lambda network: [block for branch in network.decoder.values() for block in branch],
    HoVerNetLite: lambda network: list(network.decoder.steps),
}


def make_forward(network: Network, settings: TrainSettings, parallel: nn.Module | None = None) -> Forward:
    """Return what maps (N, 3, H, W) images to a network's outputs in training, as the settings say.

    Args:
        network: the network.
        settings: of its training.
        parallel: what runs it so that processes share its gradients; None for the network itself.

    Raises:
        ValueError: where it is to be compiled, and there is no compiler.
    """
    whole = network if parallel is None else parallel
    if settings.compile:
        return compile_forward(whole)
    if settings.checkpoint_gradients:
        return recompute_forward(network, whole)
    return whole


def compile_forward(network: nn.Module, backend: str = "inductor") -> Forward:
    """Return the network's forward pass compiled by `torch.compile`, which the first step of each phase waits for.

    Args:
        network: keeps its weights and keys; it runs uncompiled wherever else it is called.
        backend: of `torch.compile`.

    Raises:
        ValueError: where the backend writes C++ and no compiler for it is found.
    """
    if backend == "inductor":
        check_compiler("train.compile=true", "train.compile=false")
    return cast(Forward, torch.compile(network, backend=backend, dynamic=False))


def recompute_forward(network: Network, whole: nn.Module | None = None) -> Forward:
    """Return a forward pass that keeps only what enters the blocks of encoder and decoder.

    What happens within a block is computed again when its gradients are. Outputs, gradients and the statistics of
    batch norms are those of the plain forward pass.

    Args:
        network: whose blocks they are.
        whole: what is called, and runs the network; None for the network itself.
    """
    call = network if whole is None else whole
    blocks = [*network.encoder_parts, *DECODER_BLOCKS[type(network)](network)]

    def forward(images: Tensor) -> HoverMaps:
        with _recomputed(blocks):
            return call(images)

    return forward


@contextlib.contextmanager
def _recomputed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Let the blocks, while this lasts, forget their activations after each call."""
    for block in blocks:
        contexts = functools.partial(_contexts, block)
        # An attribute of the instance goes before the method of its class.
        block.forward = functools.partial(  # type: ignore[method-assign]
            checkpoint, block.forward, use_reentrant=False, context_fn=contexts
        )
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _contexts(
    block: nn.Module,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """Return what surrounds a block's first run, and its second."""
    return contextlib.nullcontext(), _keeping_statistics(block)


@contextlib.contextmanager
def _keeping_statistics(block: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norms as they are: the first run has moved them."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, before, strict=True):
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count
