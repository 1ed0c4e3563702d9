"""Several processes that train one network, as torchrun starts them: the one place that knows torch.distributed.

Each process is one of a `World`. A world of one, which is what there is without torchrun, costs nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from run_utils.training.record import PEER_ENDED

logger = logging.getLogger(__name__)

# What a process may be late for a meeting with the others: by an image to validate, the page of scores, a compilation.
# A lost process is found sooner: its connections close, and torchrun ends the rest. Only a machine that vanishes
# without a word, as by a power cut, is missed no earlier.
TIMEOUT = timedelta(minutes=15)
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # by the device; plain objects go by way of the CPU
NUM_SPEAKERS = 2  # processes of a machine that say why they end: one of them at least is not the lost one
LOST_WORDS = ("onnection", "Broken pipe", "NCCL", "gloo")  # of errors that the loss of another process causes

Item = TypeVar("Item")


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: number of this one, from 0; 0 alone writes files and tells of progress. An error is told by each that
            meets it, since it may be one's alone.
        size: how many there are.
        local_rank: number of this one among those of its machine, from 0; the GPU of that number is its own.
        local_size: how many its machine has.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and tells of progress."""
        return self.rank == 0

    @property
    def is_shared(self) -> bool:
        """Whether there are other processes."""
        return self.size > 1

    def rows(self, count: int) -> range:
        """Return which of `count` things, numbered from 0, are this process's: every size-th."""
        return range(self.rank, count, self.size)

    def share(self, items: list[Item]) -> list[Item]:
        """Return those of a list that are this process's."""
        return items[self.rank :: self.size]

    def place(self, device: torch.device) -> torch.device:
        """Return this process's own device where the run's is given.

        Raises:
            ValueError: where several processes would share a GPU.
        """
        if not self.is_shared or device.type != "cuda":
            return device
        count = torch.cuda.device_count()
        if device.index is not None or self.local_rank >= count:
            raise ValueError(
                f"device={device} with {self.local_size} processes on a machine of {count} GPUs: each process needs "
                f"a GPU of its own; set device=cuda and torchrun --nproc-per-node={count} or less"
            )
        return torch.device(device.type, self.local_rank)

    @property
    def sum_over(self) -> Callable[[Tensor], Tensor] | None:
        """What adds up a tensor of all processes, differentiably; None where there is one."""
        return sum_of_processes if self.is_shared else None

    def gather(self, item: Item) -> list[Item]:
        """Return each process's item, which can be pickled, in the order of ranks; empty but in the main process."""
        if not self.is_shared:
            return [item]
        gathered: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(item, gathered)
        return gathered or []

    def collect(self, items: Sequence[Item]) -> list[Item]:
        """Return in the main process the whole sequence, of which each gives its share; empty in the others."""
        shares = self.gather(items)
        count = sum(len(share) for share in shares)
        return [shares[number % self.size][number // self.size] for number in range(count)]

    def broadcast(self, item: Item) -> Item:
        """Return the main process's item, which can be pickled, in all of them."""
        if not self.is_shared:
            return item
        items = [item]
        dist.broadcast_object_list(items)
        return items[0]

    def meet(self) -> None:
        """Wait until all processes are here."""
        self.broadcast(self.gather(None))

    def align(self, module: nn.Module) -> None:
        """Give a module the main process's weights and statistics, in place."""
        for tensor in (*module.parameters(), *module.buffers()) if self.is_shared else ():
            dist.broadcast(tensor.detach(), src=0)

    def share_gradients(self, network: nn.Module, *, has_own_statistics: bool) -> nn.Module:
        """Return what runs a network so that its gradients become their mean over processes, within backward.

        Weights that need no gradients now get none later.

        Args:
            network: that all processes hold alike.
            has_own_statistics: whether batch norms see a share of the batch: their statistics, which differ then,
                become the main process's.
        """
        if not self.is_shared:
            return network
        device = next(network.parameters()).device
        device_ids = [device] if device.type == "cuda" else None
        parallel = DistributedDataParallel(network, device_ids=device_ids, gradient_as_bucket_view=True)
        # set here, since versions of torch call the argument differently
        parallel.broadcast_buffers = has_own_statistics
        return parallel


ALONE = World()


class _Sum(torch.autograd.Function):
    """The sum of a tensor over processes; what each gets of its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return sum_of_processes(gradients[0])


def sum_of_processes(tensor: Tensor) -> Tensor:
    """Return a tensor, the same shape in every process, added up over all; all must call this, in one order.

    Where each process goes on to the same loss, its gradients come out `size` times as large as its own part in it:
    averaged over processes, they are the gradients of that loss.
    """
    return _Sum.apply(tensor)


def without_sharing(network: Callable[..., Any]) -> contextlib.AbstractContextManager[None]:
    """Return a context in which gradients stay in their process, to be summed up with those of a later batch."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def start_world(device: torch.device) -> Iterator[World]:
    """Join the processes of this run, and leave them at the end of the block; alone, do nothing.

    Args:
        device: of the run; GPUs talk by NCCL, CPUs by gloo.

    Raises:
        ConnectionError: where the others cannot be reached, or one is lost; the run is to be started again.
    """
    world = read_world(os.environ)
    if not world.is_shared:
        yield world
        return
    own = world.place(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    before = signal.signal(signal.SIGTERM, lambda *_: _give_up(world, "torchrun ends this one too"))
    if not world.is_main:
        logging.disable(logging.WARNING)
    try:
        _join(world, own)
        yield world
        world.meet()  # who leaves first would break the connection through which others still read
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in LOST_WORDS):
            _give_up(world, _shorten(error), error)
        raise
    else:
        dist.destroy_process_group()  # not after an error: it could wait for who is lost
    finally:
        logging.disable(logging.NOTSET)
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, before)


def _join(world: World, device: torch.device) -> None:
    """Connect this process with the others, and its GPU with theirs, which NCCL does when they first talk."""
    try:
        dist.init_process_group(BACKENDS[device.type], timeout=TIMEOUT)
        if device.type == "cuda":
            dist.all_reduce(torch.zeros(1, device=device))
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT')}"
        raise ConnectionError(
            f"process {world.rank} of {world.size} could not join {where} within {TIMEOUT.total_seconds() / 60:g} "
            f"minutes ({_shorten(error)}): check --rdzv-endpoint and the firewall"
        ) from error


def read_world(environment: Mapping[str, str]) -> World:
    """Return the world that torchrun describes in the environment of its processes; alone without."""
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= environment.keys():
        return ALONE
    size = int(environment["WORLD_SIZE"])
    return World(
        rank=int(environment["RANK"]),
        size=size,
        local_rank=int(environment["LOCAL_RANK"]),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", size)),
    )


def _shorten(error: Exception) -> str:
    """Return the first sentence of an error of gloo or NCCL, without the place in their source."""
    return re.sub(r"^\[\S+:\d+\] ", "", str(error)).splitlines()[0].split(". ")[0]


def _give_up(world: World, reason: str, cause: Exception | None = None) -> NoReturn:
    """End this process since another is gone, and say so where not enough others do."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # time to say it; where it takes long, torchrun kills
    if world.local_rank >= NUM_SPEAKERS:
        raise SystemExit(1) from cause
    raise ConnectionError(
        f"process {world.rank} of {world.size}: {PEER_ENDED} ({reason}); start the same "
        "command again, with as many processes as there are, to go on from the last saved state"
    ) from cause
