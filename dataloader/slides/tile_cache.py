"""The decoded tiles that a TIFF's threads used last: neighbouring regions share those at their edges."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np


class TileCache:
    """Arrays by key, those that were not asked for longest given up first; any number of threads at once.

    Args:
        num_bytes: held at most; an array that alone has more is not kept.
    """

    def __init__(self, num_bytes: int):
        self.num_bytes = num_bytes
        self._held = 0
        self._tiles: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> np.ndarray | None:
        """Return the array kept under ``key``, not to be written to, or None."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Hashable, tile: np.ndarray) -> None:
        """Keep an array; another thread may have been first, with the same."""
        with self._lock:
            if key in self._tiles or tile.nbytes > self.num_bytes:
                return
            self._tiles[key] = tile
            self._held += tile.nbytes
            while self._held > self.num_bytes:
                self._held -= self._tiles.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Give up everything."""
        with self._lock:
            self._tiles.clear()
            self._held = 0
