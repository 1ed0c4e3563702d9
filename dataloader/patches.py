"""The patch store: what extraction writes and training reads, one Zarr group a split.

Arrays: ``image (P, S, S, 3) uint8`` RGB, ``label_map (P, S, S) int32`` with the ids of the source image,
``type_map (P, S, S) uint8`` (absent without types), ``source (P,) int32`` and ``position_yx (P, 2) int32``:
its upper left corner in the source image, negative where that was mirrored. The group's attributes hold of each
source image its size, the statistics of its stain, fitted on the whole of it, and of each of its patches the pixels of
each type. A chunk is a patch, a file holds
``PATCHES_PER_FILE`` of them; everything is compressed without loss, with checksums. Maps of zeros are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from dataloader.annotations.base import AnnotatedImage
from dataloader.patch_codec import RgbDifferences, register
from dataloader.patch_shards import ShardedRows
from dataloader.stain import StainStatistics, estimate_stains
from dataloader.type_pixels import count_types

logger = logging.getLogger(__name__)

FORMAT = "hovernet-patches"
FORMAT_VERSION = 1
BORDERS = ("mirror", "valid")
PATCHES_PER_FILE = 16
ROWS_PER_FILE = 4096  # of `source` and `position_yx`
ZSTD_LEVEL = 5  # 9 saves another .4 % and takes twice as long


@dataclass(frozen=True)
class PatchSettings:
    """What every patch of a store has in common.

    Attributes:
        patch_size: side S of a patch in pixels.
        patch_step: distance between neighbouring patches in pixels, 1..S.
        border: ``mirror`` reflects the image at its edges, so that the central ``patch_step`` squares of the
            patches tile the image; ``valid`` stays inside it and adds patches flush with its far edges.
        mpp: µm/px.
        class_names: names of the types, background first; empty without types.
        adapter: name of the data set's adapter.
    """

    patch_size: int = 540
    patch_step: int = 256
    border: str = "mirror"
    mpp: float = 0.25
    class_names: tuple[str, ...] = ()
    adapter: str = ""

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        if self.border not in BORDERS:
            raise ValueError(f"border={self.border!r} is not known; use one of: {', '.join(BORDERS)}")
        if not 1 <= self.patch_step <= self.patch_size:
            raise ValueError(
                f"patch_step={self.patch_step} must lie in 1..patch_size={self.patch_size}: "
                "a larger one leaves gaps between the patches"
            )


class Patch(NamedTuple):
    """A training crop: image (S, S, 3) uint8 RGB, label_map (S, S) int32, type_map (S, S) uint8 or None."""

    image: np.ndarray
    label_map: np.ndarray
    type_map: np.ndarray | None


def place_patches(length: int, settings: PatchSettings) -> np.ndarray:
    """Place patches along one axis of an image, so that together they cover it.

    Args:
        length: size of the image along the axis in pixels, at least 1.
        settings: patch size, step and border.

    Returns:
        (n,) int64 first pixels, rising; with ``mirror`` the first may be negative and the last end outside.

    Raises:
        ValueError: for ``border="valid"`` and an image smaller than the patch.
    """
    size, step = settings.patch_size, settings.patch_step
    if settings.border == "mirror":
        return np.arange(0, length, step) - (size - step) // 2
    if length < size:
        raise ValueError(
            f"border=valid needs images of at least patch_size={size} pixels, this one has {length}; "
            "use border=mirror or a smaller patch_size"
        )
    return np.unique(np.append(np.arange(0, length - size + 1, step), length - size))


def prepare_store(path: str | Path, settings: PatchSettings, source_names: Sequence[str]) -> list[str]:
    """Create a patch store, or open an unfinished one to go on with it.

    Args:
        path: folder of the store, such as ``patches/train.zarr``.
        settings: what its patches have in common.
        source_names: all images that will be in it, in their order.

    Returns:
        The images whose patches are still missing, in order: what ``write_patches`` takes next. Empty for a
        complete store.

    Raises:
        ValueError: where ``path`` holds something else, or patches of other settings or other images.
    """
    path = Path(path)
    wanted = _describe(settings, source_names)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        zarr.create_group(path, attributes={**wanted, "finished": []})
        return list(source_names)
    found = _open_group(path).attrs.asdict()
    for key, value in wanted.items():
        if found.get(key) != value:
            raise ValueError(
                f"{path}: made with {key}={_shorten(found.get(key))}, now {_shorten(value)} is asked for; "
                "patches are never mixed: choose another output folder, or remove this one yourself"
            )
    return list(source_names[len(found["finished"]) :])


def write_patches(path: str | Path, images: Iterable[AnnotatedImage]) -> None:
    """Cut images into patches and add them to a prepared store.

    An image counts as finished once all of its patches are written: after a kill, ``prepare_store`` names it
    again and its patches are overwritten.

    Args:
        path: folder of a store that ``prepare_store`` made.
        images: the missing images in the order that ``prepare_store`` gave; may be a generator.

    Raises:
        ValueError: for an image that is not the next one, or has no type map where the store has types.
    """
    group = _open_group(Path(path), mode="r+")
    settings, source_names = _read_settings(group)
    finished = list(group.attrs["finished"])  # type: ignore[arg-type, call-overload]
    _require_arrays(group, settings)
    start = sum(_count_patches(done["size_yx"], settings) for done in finished)
    for image in images:
        number = len(finished)
        if number == len(source_names) or image.name != source_names[number]:
            raise ValueError(
                f"{path}: {image.name!r} is not the next image; write what prepare_store returned"
            )
        num_patches, type_pixels = _append(group, start, number, image)
        start += num_patches
        finished.append({**_describe_image(image), "type_pixels": type_pixels.tolist()})
        group.attrs["finished"] = finished


def _describe_image(image: AnnotatedImage) -> dict[str, Any]:
    """Return what a store says of a whole source image, as JSON."""
    stains = estimate_stains(image.image)
    unfitted = [method for method, statistics in stains.items() if statistics.is_identity]
    if unfitted:
        logger.warning(
            "%s: no stain could be fitted by %s; where that normalises, the image stays as it is",
            image.name,
            ", ".join(unfitted),
        )
    return {
        "size_yx": [int(length) for length in image.label_map.shape],
        "num_nuclei": int(np.count_nonzero(np.unique(image.label_map))),
        "stain": {method: statistics.to_dict() for method, statistics in stains.items()},
    }


def _append(group: zarr.Group, start: int, number: int, image: AnnotatedImage) -> tuple[int, np.ndarray]:
    """Write the patches of source ``number`` from row ``start`` on; return how many, and px of each type in each."""
    settings, _ = _read_settings(group)
    has_types = bool(settings.class_names)
    if has_types and image.type_map is None:
        raise ValueError(f"{image.name}: has no type map, but the store has types {settings.class_names}")
    tops = place_patches(image.image.shape[0], settings)
    lefts = place_patches(image.image.shape[1], settings)
    position_yx = np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int32)
    rows = {
        "image": _cut(image.image, position_yx, settings.patch_size),
        "label_map": _cut(image.label_map, position_yx, settings.patch_size),
        "source": np.full(len(position_yx), number, dtype=np.int32),
        "position_yx": position_yx,
    }
    if has_types:
        rows["type_map"] = _cut(np.asarray(image.type_map), position_yx, settings.patch_size)
    stop = start + len(position_yx)
    for key, values in rows.items():
        is_kept = key == "image"  # even where black: a file of images that is not there was lost
        array = _array(group, key).with_config({"write_empty_chunks": is_kept})
        array.resize((stop, *array.shape[1:]))
        array[start:stop] = values
    return len(position_yx), count_types(
        rows.get("type_map", ()), len(settings.class_names), settings.patch_step
    )


def _cut(values: np.ndarray, position_yx: np.ndarray, size: int) -> np.ndarray:
    """Cut (P, size, size, ...) windows, reflecting ``values`` around its edge pixels as often as it takes."""
    before = np.maximum(0, -position_yx.min(axis=0))
    after = np.maximum(0, position_yx.max(axis=0) + size - values.shape[:2])
    padding = [(int(b), int(a)) for b, a in zip(before, after, strict=True)] + [(0, 0)] * (values.ndim - 2)
    padded = np.pad(values, padding, mode="reflect")
    return np.stack([padded[y : y + size, x : x + size] for y, x in position_yx + before])


class PatchStore:
    """A finished patch store, for reading; safe to hand to worker processes, forked or spawned.

    Args:
        path: folder of the store.

    Raises:
        FileNotFoundError: where there is no such folder.
        ValueError: where it is no patch store, or an unfinished one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        group = _open_group(self.path)
        self.settings, self.source_names = _read_settings(group)
        finished: list[dict[str, Any]] = list(group.attrs["finished"])  # type: ignore[arg-type, call-overload]
        if len(finished) < len(self.source_names):
            raise ValueError(
                f"{self.path}: unfinished, {len(finished)} of {len(self.source_names)} images are there; "
                "run the extraction again, it goes on where it stopped"
            )
        self.source_sizes_yx = [(int(h), int(w)) for h, w in (done["size_yx"] for done in finished)]
        self.num_nuclei = sum(int(done["num_nuclei"]) for done in finished)
        self._stains = [done.get("stain", {}) for done in finished]
        self._type_pixels = [done.get("type_pixels", []) for done in finished]
        counts = [_count_patches(size_yx, self.settings) for size_yx in self.source_sizes_yx]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        keys = ("image", "label_map", "type_map") if self.num_types else ("image", "label_map")
        self._rows = {key: ShardedRows.of(self.path / key, _array(group, key)) for key in keys}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def num_types(self) -> int | None:
        """Number of types, background included; None without types."""
        return len(self.settings.class_names) or None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the types, background first; empty without types."""
        return self.settings.class_names

    @property
    def mpp(self) -> float:
        """Resolution in µm/px."""
        return self.settings.mpp

    def read(self, index: int) -> Patch:
        """Read patch ``index`` of ``len(self)``."""
        if not 0 <= index < len(self):
            raise IndexError(f"patch {index} of {len(self)} in {self.path}")
        values = {key: rows.read(index) for key, rows in self._rows.items()}
        return Patch(values["image"], values["label_map"], values.get("type_map"))

    def source_of(self, index: int) -> int:
        """Return the number, in ``source_names``, of the image that patch ``index`` was cut from."""
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def stain_statistics(self, method: str) -> list[StainStatistics]:
        """Return the stain of each of ``source_names``, fitted on the whole image.

        Args:
            method: a row of ``dataloader.stain.NORMALIZERS``.

        Raises:
            ValueError: where an older version wrote the store, without statistics.
        """
        if not all(method in stains for stains in self._stains):
            raise ValueError(
                f"{self.path} holds no '{method}' stain statistics: it was extracted by an older version; extract "
                "into another folder, or train with stain=none"
            )
        return [StainStatistics.from_dict(stains[method]) for stains in self._stains]

    def type_pixels(self) -> np.ndarray:
        """Return how many pixels of each type lie in the central ``patch_step`` square of each patch.

        A store that an older version wrote does not say: all of its type maps are read, once for this object.

        Returns:
            (P, T) int64; (P, 0) without types.
        """
        if not self.num_types:
            return np.zeros((len(self), 0), np.int64)
        if not all(self._type_pixels):
            logger.info("%s: counting types, which its extraction did not", self.path)
            maps = (self._rows["type_map"].read(index) for index in range(len(self)))
            self._type_pixels = [count_types(maps, self.num_types, self.settings.patch_step).tolist()]
        return np.array([row for rows in self._type_pixels for row in rows], np.int64)

    def read_source(self, number: int) -> AnnotatedImage:
        """Put source image ``number`` of ``source_names`` together again, exactly, from its patches."""
        height, width = self.source_sizes_yx[number]
        first, last = int(self._starts[number]), int(self._starts[number + 1])
        corners_yx = _array(_open_group(self.path), "position_yx")[first:last]
        image = np.empty((height, width, 3), np.uint8)
        label_map = np.empty((height, width), np.int32)
        type_map = np.empty((height, width), np.uint8) if self.num_types else None
        for index, (y, x) in zip(range(first, last), corners_yx, strict=True):
            patch = self.read(index)
            top, left = max(0, y), max(0, x)
            inside = (slice(top, y + self.settings.patch_size), slice(left, x + self.settings.patch_size))
            image[inside] = patch.image[top - y :, left - x :][: height - top, : width - left]
            label_map[inside] = patch.label_map[top - y :, left - x :][: height - top, : width - left]
            if type_map is not None and patch.type_map is not None:
                type_map[inside] = patch.type_map[top - y :, left - x :][: height - top, : width - left]
        return AnnotatedImage(self.source_names[number], image, label_map, type_map)


def _open_group(path: Path, mode: str = "r") -> zarr.Group:
    if path.is_file():
        raise ValueError(f"{path}: is a file, a patch store is a folder; choose another path")
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; write it with extract_patches.py")
    register()
    try:
        group = zarr.open_group(path, mode=mode)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{path}: exists and is no patch store; choose another path") from error
    if group.attrs.get("format") != FORMAT or group.attrs.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path}: is no patch store of version {FORMAT_VERSION}; choose another path")
    return group


def _describe(settings: PatchSettings, source_names: Sequence[str]) -> dict[str, Any]:
    """Return the attributes that identify a store, as JSON gives them back."""
    values = {**asdict(settings), "class_names": list(settings.class_names)}
    return {"format": FORMAT, "format_version": FORMAT_VERSION, **values, "source_names": list(source_names)}


def _read_settings(group: zarr.Group) -> tuple[PatchSettings, list[str]]:
    attributes: dict[str, Any] = group.attrs.asdict()
    values = {key: attributes[key] for key in PatchSettings.__dataclass_fields__}
    return PatchSettings(**{**values, "class_names": tuple(values["class_names"])}), attributes[
        "source_names"
    ]


def _count_patches(size_yx: Sequence[int], settings: PatchSettings) -> int:
    return len(place_patches(size_yx[0], settings)) * len(place_patches(size_yx[1], settings))


def _require_arrays(group: zarr.Group, settings: PatchSettings) -> None:
    """Create the arrays that are missing, with no rows yet."""
    size = settings.patch_size
    maps = {"label_map": "int32", "type_map": "uint8"} if settings.class_names else {"label_map": "int32"}
    shared: dict[str, Any] = {"compressors": [ZstdCodec(level=ZSTD_LEVEL, checksum=True)], "fill_value": 0}
    layouts: dict[str, dict[str, Any]] = {
        "image": {"dtype": "uint8", "size": (size, size, 3), "filters": [RgbDifferences()]},
        **{key: {"dtype": dtype, "size": (size, size)} for key, dtype in maps.items()},
    }
    for key, layout in layouts.items():
        tail = layout.pop("size")
        if key not in group:
            chunks, shards = (1, *tail), (PATCHES_PER_FILE, *tail)
            group.create_array(key, shape=(0, *tail), chunks=chunks, shards=shards, **layout, **shared)
    for key, tail in (("source", ()), ("position_yx", (2,))):
        if key not in group:
            chunks = (ROWS_PER_FILE, *tail)
            group.create_array(key, shape=(0, *tail), chunks=chunks, dtype="int32", **shared)


def _array(group: zarr.Group, key: str) -> Any:
    return group[key]


def _shorten(value: object, limit: int = 120) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
