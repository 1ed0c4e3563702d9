"""Patches as a torch data set: read from the stores, warped, ready to be batched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from dataloader.augment import Geometry, GeometrySettings, crop_centre
from dataloader.memory import keep_freed_memory
from dataloader.npy_patches import NpyPatches, Patches
from dataloader.patches import PatchStore
from dataloader.stain import StainStatistics

MAX_EPOCHS = 1 << 20  # of a run; indices beyond are of patches that are drawn again


class PatchDataset(Dataset[dict[str, torch.Tensor]]):
    """The patches of one or several stores, one after another.

    An index is ``epoch * len(dataset) + patch``: the sample follows from (seed, epoch, patch) alone, so that
    any number of workers, in any order, after any restart, gives the same. ``EpochSampler`` makes indices.

    Args:
        stores: patch stores with the same resolution and types; patch sizes may differ.
        input_size: side of the samples in pixels, at most the patch size.
        augment: ranges of the random warp; None cuts the centre out, as for validation.
        seed: of the warps.
        split_pieces: given a (H, W) int32 label map, numbers the connected pieces of each nucleus apart:
            reflection and crops tear nuclei. None leaves the ids.

    Raises:
        ValueError: for no store, stores that do not fit each other, or patches smaller than ``input_size``.
    """

    def __init__(
        self,
        stores: Patches | Sequence[Patches],
        input_size: int,
        *,
        augment: GeometrySettings | None = None,
        seed: int = 0,
        split_pieces: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.stores = [stores] if isinstance(stores, (PatchStore, NpyPatches)) else list(stores)
        _check_stores(self.stores, input_size)
        self.input_size = input_size
        self.seed = seed
        self._ends = np.cumsum([len(store) for store in self.stores])
        self._geometry = Geometry(input_size, augment) if augment is not None else None
        self._split_pieces = split_pieces

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return sample ``epoch * len(self) + patch``.

        Returns:
            ``image`` (H, W, 3) uint8 RGB, ``label_map`` (H, W) int32 and, where the stores have types,
            ``type_map`` (H, W) uint8, with H = W = ``input_size``; and ``source`` () int64, the number of its
            source image over all stores, in the order of :meth:`stain_statistics`.
        """
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # the workers are the parallelism
            keep_freed_memory()
        epoch, number = divmod(index, len(self))
        which = int(np.searchsorted(self._ends, number, side="right"))
        store, position = self.stores[which], number - (int(self._ends[which - 1]) if which else 0)
        patch = store.read(position)
        source = sum(len(earlier.source_names) for earlier in self.stores[:which]) + store.source_of(position)
        if self._geometry is None:
            image, label_map = (
                crop_centre(values, self.input_size) for values in (patch.image, patch.label_map)
            )
            type_map = None if patch.type_map is None else crop_centre(patch.type_map, self.input_size)
        else:
            seed = int(np.random.default_rng([self.seed, epoch, number]).integers(2**62))
            image, label_map, type_map = self._geometry(*patch, seed=seed)
        if self._split_pieces is not None:
            label_map = np.asarray(self._split_pieces(label_map), dtype=np.int32)
        sample = {"image": image, "label_map": label_map, "type_map": type_map}
        tensors = {
            key: torch.from_numpy(np.ascontiguousarray(values))
            for key, values in sample.items()
            if values is not None
        }
        return {**tensors, "source": torch.tensor(source)}

    def stain_statistics(self, method: str) -> list[StainStatistics]:
        """Return the stain of every source image of all stores; see ``PatchStore.stain_statistics``."""
        return [statistics for store in self.stores for statistics in store.stain_statistics(method)]

    def type_pixels(self) -> np.ndarray:
        """Return (len(self), T) int64 px of each type in each patch; see ``PatchStore.type_pixels``."""
        return np.concatenate([store.type_pixels() for store in self.stores])


class EpochSampler(Sampler[int]):
    """Every patch once an epoch, or as often as its weight says, in an order that follows from (seed, epoch) alone.

    An epoch is ``num_patches`` draws. With weights they are systematic (low-variance resampling): a patch is drawn
    its expected number of times, rounded up or down; equal weights give every patch once. What is drawn again in
    an epoch has the index of an epoch that no run reaches, so that it is warped in another way.

    Args:
        num_patches: length of the data set.
        seed: of the order.
        epoch: epoch to give, from 0; see ``set_epoch``.
        start: position in the order to start from, for resuming; a step moves it by the batch size.
        weights: (num_patches,) how often each patch is drawn, up to a factor; None draws each once.

    Raises:
        ValueError: for no patch, a start outside the epoch, or weights that are not the patches'.
    """

    def __init__(
        self,
        num_patches: int,
        seed: int,
        *,
        epoch: int = 0,
        start: int = 0,
        weights: np.ndarray | None = None,
    ) -> None:
        if num_patches < 1:
            raise ValueError("num_patches=0: there is no patch to train on; extract patches first")
        if weights is not None:
            _check_weights(weights, num_patches)
        self.num_patches = num_patches
        self.weights = weights
        self.seed = seed
        self.set_epoch(epoch, start)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch that the next iteration gives, and the position it starts from."""
        if not 0 <= start <= self.num_patches:
            raise ValueError(f"start={start} must lie in 0..{self.num_patches}, the patches of an epoch")
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        return self.num_patches - self.start

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = self.epoch * self.num_patches + rng.permutation(self.num_patches)
        if self.weights is not None:
            order = self._draw(rng, self.weights)
        return iter(order[self.start :].tolist())

    def _draw(self, rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
        """Return the (num_patches,) indices of an epoch, drawn by weight."""
        shuffled = rng.permutation(self.num_patches)
        ends = np.cumsum(weights[shuffled].astype(np.float64))
        points = (np.arange(self.num_patches) + rng.random()) * (ends[-1] / self.num_patches)
        found = np.minimum(np.searchsorted(ends, points, side="right"), self.num_patches - 1)
        first = np.searchsorted(found, found)  # `found` rises: how often a patch came before
        repeats = np.arange(self.num_patches) - first
        epochs = self.epoch + MAX_EPOCHS * repeats
        return rng.permutation(epochs * self.num_patches + shuffled[found])


def _check_weights(weights: np.ndarray, num_patches: int) -> None:
    if (
        weights.shape != (num_patches,)
        or not np.isfinite(weights).all()
        or weights.min() < 0
        or not weights.any()
    ):
        raise ValueError(
            f"weights of shape {weights.shape} must be one a patch of {num_patches}, at least 0 and not all 0"
        )


def _check_stores(stores: Sequence[Patches], input_size: int) -> None:
    if not stores:
        raise ValueError("stores is empty; give at least one patch store")
    first = stores[0]
    for store in stores:
        if (store.class_names, store.mpp) != (first.class_names, first.mpp):
            raise ValueError(
                f"{store.path} has types {store.class_names} at {store.mpp} µm/px, {first.path} has "
                f"{first.class_names} at {first.mpp}; only stores with the same ones are read together"
            )
        if store.settings.patch_size < input_size:
            raise ValueError(
                f"input_size={input_size} does not fit into patches of {store.settings.patch_size} pixels in "
                f"{store.path}; extract with patch_size={input_size} or more"
            )
        if len(store) == 0:
            raise ValueError(f"{store.path} holds no patch; extract it from at least one image")
