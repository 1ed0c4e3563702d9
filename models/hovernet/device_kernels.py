"""Watershed from markers as a relaxation that every pixel can join in: CUDA kernels, and the same by NumPy.

A key is what a priority queue orders by: the height of the highest pixel on the way from a marker, and the steps
since it was met. A pixel's key is the least that a neighbour leads to, so keys settle at the same values in whatever
order pixels look at their neighbours, and labels follow the keys downhill.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

SIDE = 32
"""Pixels of a tile, which one block settles in shared memory."""

THREADS = 256
"""Of a block; the kernels are right with any number."""

ROUNDS = 4
"""Launches between two looks at whether anything is left to do, each of which waits for the device."""

HEIGHT_SHIFT = 32
"""Bits of a key that count steps; those above hold a height's float32, which orders as an integer does."""

UNREACHED = 1 << 62
"""Key of pixels that no marker has reached; above that of any height below 2."""

CLOSED = -1
"""Floor of pixels whose key stays: markers and what lies outside."""

Launch = Callable[[str, tuple[int, int], tuple[Any, ...]], None]
"""Runs a kernel of ``SOURCE``: its name, the grid's blocks along x and y, its arguments."""

SOURCE = f"""
typedef long long Key;
const int SIDE = {SIDE}, PITCH = {SIDE + 2};

// Lower the keys of a tile until they are at rest, given those around it; wake neighbours whose surroundings changed.
extern "C" __global__ void settle(
    const int* floors, Key* keys, int height, int width, int* is_awake, int* is_awake_next) {{
    __shared__ Key held[2][PITCH * PITCH];
    __shared__ Key floor_of[SIDE * SIDE];
    const int tile = blockIdx.y * gridDim.x + blockIdx.x;
    const int is_due = is_awake[tile];
    __syncthreads();
    if (!is_due) return;
    if (threadIdx.x == 0) is_awake[tile] = 0;
    const int top = blockIdx.y * SIDE, left = blockIdx.x * SIDE;
    for (int i = threadIdx.x; i < PITCH * PITCH; i += blockDim.x) {{
        const int y = top + i / PITCH - 1, x = left + i % PITCH - 1;
        const bool is_inside = y >= 0 && y < height && x >= 0 && x < width;
        held[0][i] = held[1][i] = is_inside ? keys[y * width + x] : {UNREACHED}LL;
    }}
    for (int i = threadIdx.x; i < SIDE * SIDE; i += blockDim.x) {{
        const int y = top + i / SIDE, x = left + i % SIDE;
        const int bits = y < height && x < width ? floors[y * width + x] : {CLOSED};
        floor_of[i] = bits < 0 ? {CLOSED} : (Key)bits << {HEIGHT_SHIFT};
    }}
    __syncthreads();
    int now = 0, has_changed = 1;
    while (has_changed) {{
        int changes = 0;
        for (int i = threadIdx.x; i < SIDE * SIDE; i += blockDim.x) {{
            if (floor_of[i] < 0) continue;
            const Key* at = held[now] + (i / SIDE + 1) * PITCH + i % SIDE + 1;
            const Key around = min(min(at[-PITCH], at[-1]), min(at[1], at[PITCH]));
            const Key key = min(*at, max(around + 1, floor_of[i]));
            changes |= key != *at;
            held[1 - now][at - held[now]] = key;
        }}
        has_changed = __syncthreads_or(changes);
        now = 1 - now;
    }}
    for (int i = threadIdx.x; i < SIDE * SIDE; i += blockDim.x) {{
        const int row = i / SIDE, column = i % SIDE;
        if (floor_of[i] < 0) continue;
        const Key key = held[now][(row + 1) * PITCH + column + 1];
        Key* place = keys + (top + row) * width + left + column;
        if (key == *place) continue;
        *place = key;
        if (row == 0 && blockIdx.y > 0) is_awake_next[tile - gridDim.x] = 1;
        if (row == SIDE - 1 && blockIdx.y + 1 < gridDim.y) is_awake_next[tile + gridDim.x] = 1;
        if (column == 0 && blockIdx.x > 0) is_awake_next[tile - 1] = 1;
        if (column == SIDE - 1 && blockIdx.x + 1 < gridDim.x) is_awake_next[tile + 1] = 1;
    }}
}}

// Give each reached pixel the label of the marker that its least neighbours, one after another, lead to.
extern "C" __global__ void follow(const Key* keys, const int* markers, int* labels, int height, int width) {{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < height * width; i += gridDim.x * blockDim.x) {{
        if (keys[i] >= {UNREACHED}LL) continue;
        int at = i;
        while (!markers[at]) {{
            const int y = at / width, x = at - y * width;
            int next = at;
            if (y > 0 && keys[at - width] < keys[next]) next = at - width;
            if (x > 0 && keys[at - 1] < keys[next]) next = at - 1;
            if (x + 1 < width && keys[at + 1] < keys[next]) next = at + 1;
            if (y + 1 < height && keys[at + width] < keys[next]) next = at + width;
            at = next;
        }}
        labels[i] = markers[at];
    }}
}}
"""
"""CUDA text of both kernels; keys of a tile are held twice, so that all threads read what none writes."""


def flood(xp: ModuleType, heights: Any, markers: Any, is_open: Any) -> Any:
    """Give each open pixel to a marker, as priority flooding does, 4-connected and first come first served.

    It goes to the marker from which it is reached by the lexicographically least (height of the highest pixel on
    the way, steps since that pixel). Where two markers tie, either may win, but always the same one.

    Args:
        xp: the module of the arrays, numpy or cupy.
        heights: (H, W) float32 in 0..1.
        markers: (H, W) int32, 0 or a label.
        is_open: (H, W) bool, where labels may go.

    Returns:
        labels: (H, W) int32; 0 where nothing is open or no marker reaches.
    """
    heights, is_open = xp.ascontiguousarray(heights, xp.float32), xp.ascontiguousarray(is_open)
    markers = xp.ascontiguousarray(markers) * is_open
    bits = xp.maximum(heights.view(xp.int32), 0)  # -0.0 is 0 too
    floors = xp.where(is_open & (markers == 0), bits, np.int32(CLOSED))
    keys = xp.where(markers > 0, bits.astype(xp.int64) << HEIGHT_SHIFT, np.int64(UNREACHED))
    if xp is np:
        return _flood_by_numpy(floors, keys, markers)
    return flood_by_kernels(xp, _launcher(xp), floors, keys, markers)


def flood_by_kernels(xp: ModuleType, launch: Launch, floors: Any, keys: Any, markers: Any) -> Any:
    """Return the labels that the kernels give.

    Args:
        xp: the module of the arrays.
        launch: runs a kernel.
        floors: (H, W) int32, bits of the height of pixels to label, or ``CLOSED``.
        keys: (H, W) int64, those of markers, elsewhere ``UNREACHED``; lowered in place.
        markers: (H, W) int32.
    """
    height, width = floors.shape
    size = np.int32(height), np.int32(width)
    grid = -(-width // SIDE), -(-height // SIDE)
    is_awake, is_awake_next = xp.ones(grid, xp.int32), xp.zeros(grid, xp.int32)
    while bool(is_awake.any()):
        for _ in range(ROUNDS):
            launch("settle", grid, (floors, keys, *size, is_awake, is_awake_next))
            is_awake, is_awake_next = is_awake_next, is_awake
    labels = xp.zeros_like(markers)
    launch("follow", (-(-height * width // THREADS), 1), (keys, markers, labels, *size))
    return labels


def _flood_by_numpy(floors: np.ndarray, keys: np.ndarray, markers: np.ndarray) -> np.ndarray:
    """Return the same labels: all pixels look at their neighbours at once, again and again."""
    flat = np.pad(keys, 1, constant_values=UNREACHED).ravel()
    places = np.flatnonzero(np.pad(floors, 1, constant_values=CLOSED) >= 0)
    pitch = floors.shape[1] + 2
    around = places + np.array([[-pitch], [-1], [1], [pitch]])
    least = floors[floors >= 0].astype(np.int64) << HEIGHT_SHIFT
    has_changed = True
    while has_changed:
        lowered = np.minimum(flat[places], np.maximum(flat[around].min(axis=0) + 1, least))
        has_changed = not np.array_equal(lowered, flat[places])
        flat[places] = lowered
    is_reached = flat[places] < UNREACHED
    leads_to = np.arange(flat.size)
    leads_to[places] = np.where(
        is_reached, around[flat[around].argmin(axis=0), np.arange(len(places))], places
    )
    while not np.array_equal(further := leads_to[leads_to], leads_to):
        leads_to = further
    labels = np.pad(markers, 1).ravel()[leads_to]
    return labels.reshape(-1, pitch)[1:-1, 1:-1]


@cache
def _launcher(cupy: ModuleType) -> Launch:
    """Return what runs the kernels on CuPy's current device and stream."""
    module = cupy.RawModule(code=SOURCE, options=("--std=c++14",))

    def launch(name: str, grid: tuple[int, int], arguments: tuple[Any, ...]) -> None:
        module.get_function(name)(grid, (THREADS,), arguments)

    return launch
