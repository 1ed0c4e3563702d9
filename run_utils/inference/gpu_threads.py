"""Threads that give a GPU its work, each on a stream of its own; they live as long as the process."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

GPU_THREADS = 2  # one copies while the other's network runs

_OF_THREAD = threading.local()


@functools.cache
def threads_of(device: torch.device) -> ThreadPoolExecutor:
    """Return the threads of a GPU, the same for all slides: cuDNN remembers by thread which kernels are fastest."""
    return ThreadPoolExecutor(
        GPU_THREADS, thread_name_prefix=f"{device}", initializer=_begin, initargs=(device,)
    )


def own_stream() -> torch.cuda.Stream:
    """Return the stream of the thread that asks, one of `threads_of`."""
    stream: torch.cuda.Stream = _OF_THREAD.stream
    return stream


def _begin(device: torch.device) -> None:
    torch.cuda.set_device(device)
    _OF_THREAD.stream = torch.cuda.Stream(device)
