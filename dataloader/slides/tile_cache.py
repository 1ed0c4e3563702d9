"""The decoded tiles that a TIFF's threads used last, or are just decoding: neighbouring regions share them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable

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
        self._claims: dict[Hashable, threading.Event] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> np.ndarray | None:
        """Return the array kept under ``key``, not to be written to, or None."""
        with self._lock:
            return self._look(key)

    def claim(self, key: Hashable) -> np.ndarray | threading.Event | None:
        """Return the array kept under ``key``, or an event that is set once another thread is done with it.

        None: the caller is to ``put`` it, and to ``release`` the key whatever happens.
        """
        with self._lock:
            tile = self._look(key)
            if tile is None and key not in self._claims:
                self._claims[key] = threading.Event()
                return None
            return self._claims[key] if tile is None else tile

    def release(self, keys: Iterable[Hashable]) -> None:
        """Let other threads have what the caller claimed."""
        with self._lock:
            events = [self._claims.pop(key) for key in keys if key in self._claims]
        for event in events:
            event.set()

    def put(self, key: Hashable, tile: np.ndarray) -> None:
        """Keep an array; another thread may have been first, with the same."""
        with self._lock:
            if key in self._tiles or tile.nbytes > self.num_bytes:
                return
            self._tiles[key] = tile
            self._held += tile.nbytes
            while self._held > self.num_bytes:
                self._held -= self._tiles.popitem(last=False)[1].nbytes

    def _look(self, key: Hashable) -> np.ndarray | None:
        tile = self._tiles.get(key)
        if tile is not None:
            self._tiles.move_to_end(key)
        return tile

    def clear(self) -> None:
        """Give up everything."""
        with self._lock:
            self._tiles.clear()
            self._held = 0
