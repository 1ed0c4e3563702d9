"""CUDA text run on this CPU: a block's threads are threads of the host, and its barriers theirs."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NUM_THREADS = 3
"""Of a block: as many as may differ from a power of two, and each does many pixels."""

SHIM = """
#include <algorithm>
#include <pthread.h>
#include <thread>
#include <vector>
using std::min; using std::max;
struct Three { unsigned x, y; };
static thread_local Three threadIdx, blockIdx;
static Three blockDim, gridDim;
static pthread_barrier_t barrier;
static int votes[THREADS];
static void __syncthreads() { pthread_barrier_wait(&barrier); }
static int __syncthreads_or(int vote) {
    votes[threadIdx.x] = vote;
    __syncthreads();
    const int any = std::any_of(votes, votes + THREADS, [](int each) { return each != 0; });
    __syncthreads();
    return any;
}
template <class Kernel> static void on_grid(unsigned width, unsigned height, Kernel kernel) {
    blockDim = {THREADS, 1};
    gridDim = {width, height};
    pthread_barrier_init(&barrier, nullptr, THREADS);
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < THREADS; ++thread)
        threads.emplace_back([=] {
            threadIdx = {thread, 0};
            for (unsigned block = 0; block < width * height; ++block) {
                blockIdx = {block % width, block / width};
                kernel();
                __syncthreads();
            }
        });
    for (auto& thread : threads) thread.join();
    pthread_barrier_destroy(&barrier);
}
#define __global__
#define __shared__ static
"""
RUN = """
extern "C" void run_%(name)s(unsigned grid_x, unsigned grid_y, %(parameters)s) {
    on_grid(grid_x, grid_y, [=] { %(name)s(%(names)s); });
}
"""


def compile_for_host(source: str, kernels: list[str], folder: Path) -> Callable[..., None]:
    """Return what launches ``kernels`` of a CUDA text on NumPy arrays; skips where there is no C++ compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to run the kernels with")
    text = SHIM + source
    for name in kernels:
        start = source.index(f"void {name}(") + len(f"void {name}(")
        parameters = source[start : source.index(")", start)]
        names = ", ".join(part.split()[-1].strip("*") for part in parameters.split(","))
        text += RUN % {"name": name, "parameters": parameters, "names": names}
    (folder / "kernels.cpp").write_text(text)
    library = folder / "kernels.so"
    command = [compiler, "-std=c++14", "-O1", f"-DTHREADS={NUM_THREADS}", "-shared", "-fPIC", "-pthread"]
    subprocess.run([*command, "-o", str(library), str(folder / "kernels.cpp")], check=True)
    functions = ctypes.CDLL(str(library))

    def launch(name: str, grid: tuple[int, int], arguments: tuple[Any, ...]) -> None:
        kinds = {np.ndarray: lambda array: ctypes.c_void_p(array.ctypes.data), np.int32: ctypes.c_int}
        given = [kinds[type(argument)](argument) for argument in arguments]
        functions[f"run_{name}"](*(ctypes.c_uint(blocks) for blocks in grid), *given)

    return launch
