"""The stain code as MONAI-style transforms: channels first, arrays or tensors, alone or by key in a dictionary.

Plain callables with MONAI's conventions, so that they work inside ``monai.transforms.Compose`` without MONAI being
needed here. They are no subclasses of MONAI's, which shows in two places: ``CacheDataset`` caches what comes before
the first of them, neither it nor what follows; and ``Compose.set_random_state`` passes the random ones over, which
are seeded by their own ``set_random_state`` alone. MONAI's data loader calls that in its workers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataloader.stain import make_normalizer
from dataloader.stain.arrays import namespace_of, to_grey_levels
from dataloader.stain.jitter import HedJitter
from dataloader.stain.statistics import StainStatistics

_MAX_SEED = 2**32


class NormalizeStain:
    """Bring an image to a target stain; MONAI's ``CacheDataset`` does not cache the result.

    Args:
        method: "macenko", "vahadane" or "reinhard".
        target: statistics, a JSON file of them, or an image; None takes the method's default.
        source: what is known of the stain, for instance fitted on the whole slide; None fits on each image.

    Raises:
        ValueError: if the method is unknown, or ``target`` does not suit it.
    """

    def __init__(
        self, method: str = "macenko", target: Any = None, source: StainStatistics | None = None
    ) -> None:
        self.normalizer = make_normalizer(method, target)
        self.source = source

    def __call__(self, image: Any) -> Any:
        """Return (3, H, W) uint8 for (3, H, W) NumPy, CuPy or torch in 0..255; too little tissue leaves it as it is."""
        pixels = _as_door(image)
        source = self.source or self.normalizer.estimate(pixels)
        return _from_door(self.normalizer.transform(pixels, source), image)


class ExtractStains:
    """Find the two stain vectors of an image; MONAI's ``CacheDataset`` does not cache them.

    Args:
        method: "macenko" or "vahadane".

    Raises:
        ValueError: if the method is unknown or knows no stain vectors.
    """

    def __init__(self, method: str = "macenko") -> None:
        if method == "reinhard":
            raise ValueError("method 'reinhard' knows no stain vectors; choose macenko or vahadane")
        self.normalizer = make_normalizer(method, None)

    def __call__(self, image: Any) -> np.ndarray:
        """Return (3, 2) float32, rows R, G, B, columns haematoxylin, eosin, for (3, H, W) in 0..255.

        Raises:
            ValueError: if the image shows too little tissue, or one stain only.
        """
        statistics = self.normalizer.estimate(_as_door(image))
        if statistics.stain_matrix is None:
            raise ValueError("the image shows too little stain to extract; choose one with more tissue")
        return np.array(statistics.stain_matrix, np.float32)


class RandHEDJitter:
    """Vary haematoxylin, eosin and DAB by random scales and shifts; see ``HedJitter``.

    Seed it by :meth:`set_random_state`: MONAI's ``Compose.set_random_state`` does not reach it, its data loader does.

    Args:
        prob: probability that an image is changed.
        scale: largest share by which a concentration grows or shrinks.
        shift: largest concentration added or taken, in optical density.
    """

    def __init__(self, prob: float = 0.1, scale: float = 0.05, shift: float = 0.05) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob={prob} lies outside 0..1; 1 changes every image")
        self.prob = prob
        self.jitter = HedJitter(scale, shift)
        self.R = np.random.RandomState()
        self._seed: int | None = None

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandHEDJitter:
        """Start from a seed or a state; return itself, as MONAI's do."""
        self.R = (
            state if state is not None else np.random.RandomState(None if seed is None else seed % _MAX_SEED)
        )
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw whether, and how, the next image is changed."""
        is_drawn, seed = self.R.rand() < self.prob, int(self.R.randint(_MAX_SEED, dtype=np.uint32))
        self._seed = seed if is_drawn else None

    def __call__(self, image: Any, randomize: bool = True) -> Any:
        """Return (3, H, W) uint8 for (3, H, W) NumPy or torch in 0..255; uint8 itself where nothing is drawn."""
        if randomize:
            self.randomize()
        levels = to_grey_levels(image)
        if self._seed is None:
            return levels
        tensor = levels if isinstance(levels, Tensor) else torch.from_numpy(np.ascontiguousarray(levels))
        jittered = self.jitter(tensor[None], torch.Generator().manual_seed(self._seed))[0]
        return jittered if isinstance(levels, Tensor) else jittered.numpy()


class _ByKey:
    """The keys of a dictionary transform.

    Args:
        keys: of the images; one or several.
        allow_missing_keys: whether a key that is not there is passed over.
    """

    def __init__(self, keys: Hashable | Iterable[Hashable], allow_missing_keys: bool) -> None:
        several = keys if isinstance(keys, Iterable) and not isinstance(keys, str) else (keys,)
        self.keys: tuple[Hashable, ...] = tuple(several)
        if not self.keys:
            raise ValueError("keys are empty; name the images, for instance keys='image'")
        self.allow_missing_keys = allow_missing_keys

    def present(self, data: Mapping[Hashable, Any]) -> list[Hashable]:
        """Return the keys to work on."""
        missing = [key for key in self.keys if key not in data]
        if missing and not self.allow_missing_keys:
            raise KeyError(f"key {missing[0]!r} is missing; set allow_missing_keys=True to pass over it")
        return [key for key in self.keys if key in data]


class NormalizeStaind:
    """:class:`NormalizeStain` for the images under ``keys``."""

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        method: str = "macenko",
        target: Any = None,
        source: StainStatistics | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        self._by_key = _ByKey(keys, allow_missing_keys)
        self.transform = NormalizeStain(method, target, source)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new dictionary with the images normalised."""
        return {**data, **{key: self.transform(data[key]) for key in self._by_key.present(data)}}


class ExtractStainsd:
    """:class:`ExtractStains` for the images under ``keys``, which the stain matrices replace, as MONAI does."""

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        method: str = "macenko",
        allow_missing_keys: bool = False,
    ) -> None:
        self._by_key = _ByKey(keys, allow_missing_keys)
        self.transform = ExtractStains(method)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new dictionary with a stain matrix in place of each image."""
        return {**data, **{key: self.transform(data[key]) for key in self._by_key.present(data)}}


class RandHEDJitterd:
    """:class:`RandHEDJitter` for the images under ``keys``, all by one draw; seeded as that is."""

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        prob: float = 0.1,
        scale: float = 0.05,
        shift: float = 0.05,
        allow_missing_keys: bool = False,
    ) -> None:
        self._by_key = _ByKey(keys, allow_missing_keys)
        self.transform = RandHEDJitter(prob, scale, shift)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandHEDJitterd:
        """Start from a seed or a state; return itself, as MONAI's do."""
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new dictionary with the images jittered."""
        self.transform.randomize()
        changed = {key: self.transform(data[key], randomize=False) for key in self._by_key.present(data)}
        return {**data, **changed}


def _as_door(image: Any) -> Any:
    """Return a channel-first image as the normalisers take it: arrays with the channels last."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image of shape {tuple(image.shape)} must be (3, H, W); move or drop channels")
    return image if isinstance(image, Tensor) else namespace_of(image).moveaxis(image, 0, -1)


def _from_door(image: Any, like: Any) -> Any:
    """Return an image with the channels first again, contiguous."""
    if isinstance(like, Tensor):
        return image
    xp = namespace_of(image)
    return xp.ascontiguousarray(xp.moveaxis(image, -1, 0))
