"""Reads one chunk of a sharded Zarr array straight from its file, for the patch store: no event loop, no threads.

Zarr itself hands every read to another thread, several times: for a patch that takes four times as long as the
decoding. What is read is the standard's layout (Zarr v3, ``sharding_indexed``): a file of chunks, and at its end the
offset and the length of each, two little-endian uint64, and their CRC-32C. That is compared where a file is first
read; chunks are compressed with a checksum of their own, which the decoder compares.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import imagecodecs
import numpy as np

from dataloader.patch_codec import NAME as RGB_DIFFERENCES
from dataloader.patch_codec import from_differences

CHECKSUM_BYTES = 4
ENTRY_BYTES = 16  # an offset and a length
MISSING = 2**64 - 1  # offset of a chunk that was not written, for it holds nothing but zeros

LAYOUT = {
    "codecs": ["sharding_indexed"],
    "index": ["bytes", "crc32c", "end"],
    "chunk": ["bytes", "zstd"],
    "rows_per_chunk": 1,
}  # the only one that is read here


@dataclass(frozen=True)
class ShardedRows:
    """The rows of an array whose chunk is a row, ``rows_per_file`` of them to a file.

    Attributes:
        path: folder of the array.
        shape: of a row.
        dtype: of its values.
        rows_per_file: number of rows in a file.
        is_rgb: whether rows are stored as ``RgbDifferences``.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    rows_per_file: int
    is_rgb: bool
    _indices: dict[Path, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, path: Path, array: Any) -> ShardedRows:
        """Describe the opened Zarr ``array`` in the folder ``path``.

        Raises:
            ValueError: where it is stored in another way.
        """
        codecs = array.metadata.to_dict()["codecs"]
        shard = codecs[0].get("configuration", {})
        filters = _names(shard.get("codecs", []))
        found = {
            "codecs": _names(codecs),
            "index": [*_names(shard.get("index_codecs", [])), shard.get("index_location")],
            "chunk": [name for name in filters if name != RGB_DIFFERENCES],
            "rows_per_chunk": int(array.chunks[0]),
        }
        if found != LAYOUT:
            raise ValueError(f"{path}: stored as {found}, not as {LAYOUT}; extract the patches again")
        rows_per_file = int(array.shards[0])
        return cls(
            path, array.shape[1:], array.dtype.newbyteorder("<"), rows_per_file, RGB_DIFFERENCES in filters
        )

    def read(self, row: int) -> np.ndarray:
        """Read one row; all zero where Zarr left it out for being so.

        Raises:
            FileNotFoundError: where the file of an image is missing, which is written even for black ones.
            ValueError: where the file is damaged.
        """
        file_number, place = divmod(row, self.rows_per_file)
        path = self.path.joinpath("c", str(file_number), *["0"] * len(self.shape))
        try:
            chunk = self._read_chunk(path, place)
            return np.zeros(self.shape, self.dtype) if chunk is None else self._decode(chunk)
        except FileNotFoundError as error:
            if self.is_rgb:
                raise FileNotFoundError(
                    f"{path}: missing, it holds row {row}; extract the patches again"
                ) from error
            return np.zeros(self.shape, self.dtype)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: damaged at row {row}; extract the patches again") from error

    def _read_chunk(self, path: Path, place: int) -> bytes | None:
        """Read the compressed chunk at ``place`` in a file, None where there is none."""
        with path.open("rb", buffering=0) as file:
            if path not in self._indices:
                self._indices[path] = _read_index(file, self.rows_per_file)
            offset, length = (int(value) for value in self._indices[path][place])
            if offset == MISSING:
                return None
            chunk = os.pread(file.fileno(), length, offset)
        if len(chunk) < length:
            raise ValueError(f"the index points to byte {offset + length}, where there is none")
        return chunk

    def _decode(self, chunk: bytes) -> np.ndarray:
        height, width = self.shape[:2]
        stored = (3, height, width) if self.is_rgb else self.shape
        values = np.empty(stored, self.dtype)
        num_bytes = imagecodecs.zstd_decode(chunk, out=values.reshape(-1).view(np.uint8)).nbytes
        if num_bytes != values.nbytes:
            raise ValueError(f"{num_bytes} bytes instead of {values.nbytes}")
        return from_differences(values) if self.is_rgb else values


def _names(codecs: list[dict[str, Any]]) -> list[str]:
    return [codec["name"] for codec in codecs]


def _read_index(file: BinaryIO, num_places: int) -> np.ndarray:
    """Read the (num_places, 2) uint64 offsets and lengths at the end of a file."""
    size = os.fstat(file.fileno()).st_size
    num_bytes = num_places * ENTRY_BYTES
    start = size - num_bytes - CHECKSUM_BYTES
    if start < 0:
        raise ValueError(f"{size} bytes are too few for an index")
    content = os.pread(file.fileno(), num_bytes + CHECKSUM_BYTES, start)
    index, checksum = content[:num_bytes], content[num_bytes:]
    if google_crc32c.value(index) != int.from_bytes(checksum, "little"):
        raise ValueError("the index does not match its checksum")
    return np.frombuffer(index, "<u8").reshape(num_places, 2)
