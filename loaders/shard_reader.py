"""Shards → decoded blocks of rows.

HDF5 is asked once per shard and process: where does each chunk lie in the file. From then on a block is one plain
read, one inflate (ISA-L, which checks the Adler-32 at the end of each stream, as HDF5 would) and one unshuffle for
each dataset. So no HDF5 handle stays open or is inherited by a forked worker, and a few file descriptors are enough
for any number of shards.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import h5py
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from hdf5_writer.schema import DATASETS, check_version
from loaders.data_dir import Shard

# Decoded chunks of narrow columns that are kept; each holds some thousand rows.
_NARROW_CHUNKS = 64
BLOCK_ROWS = DATASETS["labels"].rows_per_chunk
_WIDE = [name for name, spec in DATASETS.items() if spec.row == "positions"]

Array = npt.NDArray[Any]
_InflateError = cast(type[Exception], isal_zlib.error)


class ShardError(ValueError):
    """A shard is not what was written."""


class Block(NamedTuple):
    """The rows of one chunk, read-only: n of them, fewer than a chunk at the end of a shard.

    Attributes:
        text_input_ids, labels: (n, max_sequence_length) int32.
        loss_mask, key_padding_mask: (n, max_sequence_length) uint8.
        modality_lengths: (n,) int32.
        image_paths: (n,) bytes, empty for a text-only row.
    """

    text_input_ids: Array
    labels: Array
    loss_mask: Array
    key_padding_mask: Array
    modality_lengths: Array
    image_paths: Array


class ShardReader:
    """Reads blocks of many shards; keeps the blocks used last and a few open files."""

    def __init__(
        self, shards: Sequence[Shard], *, cache_blocks: int = 32, open_files: int = 16, verify: bool = False
    ) -> None:
        """`verify`: compare the sha256 of a shard with `data_params.json` before this process first reads it."""
        self._shards = list(shards)
        self._cache_blocks = cache_blocks
        self._open_files = open_files
        self._verify = verify
        self._forget()

    def _forget(self) -> None:
        # One reader at a time: a file closed by one thread can be another file to the next.
        self._lock = threading.RLock()
        self._files: OrderedDict[int, int] = OrderedDict()
        self._chunks: dict[int, dict[str, _Chunks]] = {}
        self._blocks: OrderedDict[tuple[int, int], Block] = OrderedDict()
        self._narrow: OrderedDict[tuple[int, str, int], Array] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # File descriptors mean nothing in a spawned process, and caches would be copied.
        left_out = ("_lock", "_files", "_chunks", "_blocks", "_narrow")
        return {key: value for key, value in self.__dict__.items() if key not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            with contextlib.suppress(OSError):
                os.close(file)

    def block(self, shard: int, number: int) -> Block:
        """Rows `number * BLOCK_ROWS` and on of a shard.

        Raises:
            ShardError: the shard is not what was written.
            OSError: it cannot be read.
        """
        with self._lock:
            key = (shard, number)
            if key in self._blocks:
                self._blocks.move_to_end(key)
            else:
                self._blocks[key] = self._read_block(shard, number)
                if len(self._blocks) > self._cache_blocks:
                    self._blocks.popitem(last=False)
            return self._blocks[key]

    def _read_block(self, shard: int, number: int) -> Block:
        start = number * BLOCK_ROWS
        stop = min(start + BLOCK_ROWS, self._shards[shard].rows)
        return Block(
            **{name: self._read_chunk(shard, name, number)[: stop - start] for name in _WIDE},
            modality_lengths=self.column(shard, "modality_lengths", start, stop),
            image_paths=self.column(shard, "image_paths", start, stop)[:, 0],
        )

    def column(self, shard: int, name: str, start: int, stop: int) -> Array:
        """Rows of a narrow dataset (`image_paths`, `modality_lengths`, `source_file`, `source_line`)."""
        parts = []
        with self._lock:
            rows = self._index(shard)[name].rows
            while start < stop:
                number, offset = divmod(start, rows)
                end = min(stop, (number + 1) * rows)
                parts.append(self._narrow_chunk(shard, name, number)[offset : offset + end - start])
                start = end
        if not parts:
            return np.zeros(0, dtype=np.int32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _narrow_chunk(self, shard: int, name: str, number: int) -> Array:
        key = (shard, name, number)
        if key in self._narrow:
            self._narrow.move_to_end(key)
        else:
            self._narrow[key] = self._read_chunk(shard, name, number)
            if len(self._narrow) > _NARROW_CHUNKS:
                self._narrow.popitem(last=False)
        return self._narrow[key]

    def _read_chunk(self, shard: int, name: str, number: int) -> Array:
        chunks = self._index(shard)[name]
        data = os.pread(self._file(shard), chunks.sizes[number], chunks.offsets[number])
        try:
            return chunks.decode(data)
        except (_InflateError, ValueError) as error:
            start = number * chunks.rows
            raise ShardError(
                f"{self._shards[shard].path}: {name} is damaged from row {start} on ({error}); "
                "copy the file again, or run create_hdf5_dataset again"
            ) from None

    def _file(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        if len(self._files) >= self._open_files:
            os.close(self._files.popitem(last=False)[1])
        entry = self._shards[shard]
        file = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(file).st_size
        if size != entry.bytes:
            os.close(file)
            raise ShardError(f"{entry.path}: has {size} bytes, expected {entry.bytes}: it was changed meanwhile")
        self._files[shard] = file
        return file

    def _index(self, shard: int) -> dict[str, _Chunks]:
        if shard not in self._chunks:
            entry = self._shards[shard]
            self._file(shard)  # refuses a file of another size before HDF5 sees it
            if self._verify:
                _check_sha256(entry)
            try:
                self._chunks[shard] = _find_chunks(entry)
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                raise ShardError(
                    f"{entry.path}: is no shard of this project, or damaged ({error}); run create_hdf5_dataset again"
                ) from None
        return self._chunks[shard]


@dataclass(frozen=True)
class _Chunks:
    """Where the chunks of one dataset lie, and how they are stored."""

    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offsets: list[int]
    sizes: list[int]

    def decode(self, data: bytes) -> Array:
        """Inflate and unshuffle a chunk: (rows, *row_shape)."""
        items = self.rows * int(np.prod(self.row_shape, dtype=np.int64))
        width = self.dtype.itemsize
        raw = isal_zlib.decompress(data, bufsize=items * width)
        if len(raw) != items * width:
            raise ValueError(f"{len(raw)} bytes, expected {items * width}")
        array: Array
        if width == 1:
            array = np.frombuffer(raw, dtype=self.dtype)
        else:
            # The filter stores the first bytes of all items, then the second bytes, …
            planes = np.frombuffer(raw, dtype=np.uint8).reshape(width, items)
            if self.dtype == np.dtype("<i4") and not planes[2:].any():
                # Ids below 65,536, as those of most vocabularies are: half the bytes need not be moved.
                small = np.empty((items, 2), dtype=np.uint8)
                small[:, 0], small[:, 1] = planes[0], planes[1]
                array = small.view("<u2").astype("<i4")
            else:
                joined = np.empty((items, width), dtype=np.uint8)
                for byte in range(width):
                    joined[:, byte] = planes[byte]
                array = joined.view(self.dtype)
        array = array.reshape(self.rows, *self.row_shape)
        array.setflags(write=False)  # cached: a caller who writes into it would change later batches
        return array


def _find_chunks(shard: Shard) -> dict[str, _Chunks]:
    # Not by its path: HDF5 would lock it, or refuse it where someone in this process looks at it with h5py.
    with open(shard.path, "rb") as raw, h5py.File(raw, "r") as file:
        check_version(file.attrs.get("schema_version"), shard.path)
        return {name: _chunks_of(file[name], name, shard.rows) for name in DATASETS}


def _chunks_of(dataset: h5py.Dataset, name: str, rows: int) -> _Chunks:
    if dataset.shape[0] != rows:
        raise ValueError(f"{name} has {dataset.shape[0]} rows, expected {rows}")
    row_shape, dtype = tuple(dataset.shape[1:]), dataset.dtype
    expected = DATASETS[name]
    if expected.dtype != "path" and dtype != np.dtype(expected.dtype):
        raise ValueError(f"{name} has dtype {dtype}, expected {expected.dtype}")
    if not rows:
        return _Chunks(1, row_shape, dtype, [], [])
    chunk_rows = min(expected.rows_per_chunk, rows)
    stored = (dataset.chunks, dataset.compression, dataset.shuffle)
    if stored != ((chunk_rows, *row_shape), "gzip", dtype.itemsize > 1):
        raise ValueError(f"{name} is stored as {stored}, expected chunks of {chunk_rows} rows, shuffled and gzipped")
    count = -(-rows // chunk_rows)
    offsets, sizes = [-1] * count, [0] * count

    def note(info: Any) -> None:
        number = info.chunk_offset[0] // chunk_rows
        offsets[number], sizes[number] = info.byte_offset, info.size
        if info.filter_mask:
            offsets[number] = -1

    dataset.id.chunk_iter(note)
    if min(offsets) < 0:
        raise ValueError(f"chunk {offsets.index(-1)} of {name} is absent or not compressed")
    return _Chunks(chunk_rows, row_shape, dtype, offsets, sizes)


def _check_sha256(shard: Shard) -> None:
    with open(shard.path, "rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    if digest.hexdigest() != shard.sha256:
        raise ShardError(
            f"{shard.path}: has sha256 {digest.hexdigest()}, expected {shard.sha256}; "
            "copy the file again, or run create_hdf5_dataset again"
        )
