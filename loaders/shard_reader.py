"""Shards → decoded blocks of rows.

HDF5 is asked once per shard and process: where does each chunk lie in the file. From then on a block is one plain
read and one inflate (ISA-L, which checks the Adler-32 at the end of each stream, as HDF5 would) for each dataset. So
no HDF5 handle stays open or is inherited by a forked worker, and a few file descriptors are enough for any number of
shards.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast

import h5py
import numpy as np
from isal import isal_zlib

from hdf5_writer.publish import sha256_of
from hdf5_writer.schema import CONTENT_DATA, DATASETS
from loaders.blocks import ID_KEYS, TEXT_KEYS, Array, Block, StoredImage, make_block
from loaders.data_dir import Shard
from preprocess.regular_files import open_descriptor, open_regular

# Decoded chunks of narrow columns that are kept; each holds some thousand rows.
_NARROW_CHUNKS = 64
BLOCK_ROWS = DATASETS["labels"].per_chunk

T = TypeVar("T")
_InflateError = cast(type[Exception], isal_zlib.error)


class ShardError(ValueError):
    """A shard is not what was written."""


class ShardReader:
    """Reads blocks of many shards; keeps the blocks used last and a few open files."""

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        cache_blocks: int = 32,
        open_files: int = 16,
        threads: int = 1,
        verify: bool = False,
    ) -> None:
        """Set up; opens nothing.

        Args:
            shards: those that blocks are read of.
            cache_blocks: blocks that are kept.
            open_files: files that are kept open.
            threads: that read the blocks of one call; inflating leaves Python's lock to others.
            verify: compare the sha256 of a shard with `data_params.json` before this process first reads it.
        """
        self._shards = list(shards)
        self._cache_blocks = cache_blocks
        self._open_files = open_files
        self._threads = threads
        self._verify = verify
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        # For what is kept below, and for reading: a file closed by one thread can be another file to the next.
        # Decoding goes on outside of it.
        self._lock = threading.RLock()
        self._executor: ThreadPoolExecutor | None = None
        self._files: OrderedDict[int, int] = OrderedDict()
        self._chunks: dict[int, dict[str, _Chunks]] = {}
        self._blocks: OrderedDict[tuple[int, int], Block] = OrderedDict()
        self._narrow: OrderedDict[tuple[int, str, int], Array] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # File descriptors mean nothing in a spawned process, and caches would be copied.
        left_out = ("_process", "_lock", "_executor", "_files", "_chunks", "_blocks", "_narrow")
        return {key: value for key, value in self.__dict__.items() if key not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            with contextlib.suppress(OSError):
                os.close(file)

    def block(self, shard: int, number: int) -> Block:
        """Rows `number * BLOCK_ROWS` and on of a shard; see `blocks`."""
        return self.blocks([(shard, number)])[shard, number]

    def blocks(self, wanted: Collection[tuple[int, int]]) -> dict[tuple[int, int], Block]:
        """Several blocks, each by its shard and its number in the shard.

        Raises:
            ShardError: a shard is not what was written.
            OSError: it cannot be read.
        """
        self._after_fork()
        found: dict[tuple[int, int], Block] = {}
        missing: list[tuple[int, int]] = []
        with self._lock:
            for key in wanted:
                block = self._blocks.get(key)
                if block is None:
                    missing.append(key)
                else:
                    self._blocks.move_to_end(key)
                    found[key] = block
        if missing:
            read = self._pool().map if self._threads > 1 and len(missing) > 1 else map
            found.update(zip(missing, read(self._read_block, missing), strict=True))
            with self._lock:
                for key in missing:
                    self._blocks[key] = found[key]
                while len(self._blocks) > self._cache_blocks:
                    self._blocks.popitem(last=False)
        return found

    def _after_fork(self) -> None:
        """A fork copies the lock, perhaps held, and not the threads: begin anew."""
        if self._process != os.getpid():
            self.__del__()
            self._forget()

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="shard-reader")
            return self._executor

    def _read_block(self, key: tuple[int, int]) -> Block:
        shard, number = key
        start = number * BLOCK_ROWS
        stop = min(start + BLOCK_ROWS, self._shards[shard].rows)
        wide = {name: self._read_chunk(shard, name, number, _Chunks.planes) for name in TEXT_KEYS}
        text = {name: planes[..., : stop - start, :] for name, planes in wide.items()}
        return make_block(**text, lengths=self._lengths(shard, start, stop), images=self._images(shard, start, stop))

    def _lengths(self, shard: int, start: int, stop: int) -> list[list[int]]:
        """Positions of the samples of some rows."""
        bounds = self.column(shard, "samples/offsets", start, stop + 1).tolist()
        return _by_row(self.column(shard, "samples/length", bounds[0], bounds[-1]).tolist(), bounds)

    def _images(self, shard: int, start: int, stop: int) -> list[list[StoredImage]]:
        """Images of some rows."""
        bounds = self.column(shard, "images/offsets", start, stop + 1).tolist()
        first, behind = bounds[0], bounds[-1]
        columns = (self.column(shard, f"images/{name}", first, behind).tolist() for name in ("path", "start", "slots"))
        return _by_row(list(map(StoredImage, range(first, behind), *columns)), bounds)

    def whole_column(self, shard: int, name: str) -> Array:
        """All entries of a column."""
        self._after_fork()
        with self._lock:
            entries = self._index(shard)[name].entries
        return self.column(shard, name, 0, entries)

    def place_of(self, shard: int, name: str) -> int:
        """Where a dataset of plain bytes begins in the file."""
        self._after_fork()
        with self._lock:
            return self._index(shard)[name].offsets[0]

    def read_into(self, shard: int, offset: int, buffer: Array) -> int:
        """Fill a buffer with the bytes of a file from a place on; how many there were."""
        self._after_fork()
        with self._lock:
            return os.preadv(self._file(shard), [buffer.data], offset)

    def column(self, shard: int, name: str, start: int, stop: int) -> Array:
        """Entries of a dataset of the tables, such as `samples/length`."""
        parts = []
        self._after_fork()
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
            self._narrow[key] = self._read_chunk(shard, name, number, _Chunks.decode)
            if len(self._narrow) > _NARROW_CHUNKS:
                self._narrow.popitem(last=False)
        return self._narrow[key]

    def _read_chunk(self, shard: int, name: str, number: int, decode: Callable[[_Chunks, bytes], Array]) -> Array:
        with self._lock:
            chunks = self._index(shard)[name]
            data = os.pread(self._file(shard), chunks.sizes[number], chunks.offsets[number])
        try:
            return decode(chunks, data)
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
        file = open_descriptor(entry.path)
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
    """Where the chunks of one dataset lie, and how they are stored.

    Attributes:
        rows: of a chunk, and `entries` of the dataset.
        used_bytes: of each item, from the lowest, those that are not zero in a sound shard. Zeros are not inflated
            then: the Adler-32 of the stream says that they are there. It takes half of the time.
    """

    rows: int
    entries: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    used_bytes: int
    offsets: list[int]
    sizes: list[int]

    def planes(self, data: bytes) -> Array:
        """Inflate a chunk: (bytes of an item, rows, *row_shape) uint8, the lowest bytes of all items first, as stored.

        Of ids it leaves out the upper bytes, where they are zeros; items of one byte are (rows, *row_shape).
        """
        plane = self.rows * int(np.prod(self.row_shape, dtype=np.int64))
        width, shape = self.dtype.itemsize, (self.rows, *self.row_shape)
        if self.used_bytes < width:
            size = self.used_bytes * plane
            raw = isal_zlib.decompressobj().decompress(data, size)
            if len(raw) == size and _adler32_with_zeros(raw, (width - self.used_bytes) * plane) == data[-4:]:
                return np.frombuffer(raw, dtype=np.uint8).reshape(self.used_bytes, *shape)
        raw = isal_zlib.decompress(data, bufsize=width * plane)
        if len(raw) != width * plane:
            raise ValueError(f"{len(raw)} bytes, expected {width * plane}")
        return np.frombuffer(raw, dtype=np.uint8).reshape(*((width,) if width > 1 else ()), *shape)

    def decode(self, data: bytes) -> Array:
        """Inflate and unshuffle a chunk: (rows, *row_shape), read-only."""
        array = self.planes(data)
        if self.dtype.itemsize > 1:
            array = np.ascontiguousarray(np.moveaxis(array, 0, -1))
        array = array.view(self.dtype).reshape(self.rows, *self.row_shape)
        array.setflags(write=False)  # cached: a caller who writes into it would change later batches
        return array


def _by_row(entries: list[T], bounds: list[int]) -> list[list[T]]:
    """Entries of a table from `bounds[0]` on, cut into those of each row."""
    return [entries[begin - bounds[0] : end - bounds[0]] for begin, end in pairwise(bounds)]


def _adler32_with_zeros(data: bytes, zeros: int) -> bytes:
    """The Adler-32 of data and so many zeros behind it, as the end of a zlib stream has it (RFC 1950)."""
    checksum = isal_zlib.adler32(data)
    low = checksum & 0xFFFF
    return (((checksum >> 16) + zeros * low) % 65521 << 16 | low).to_bytes(4, "big")


def _find_chunks(shard: Shard) -> dict[str, _Chunks]:
    # Not by its path: HDF5 would lock it, or refuse it where someone in this process looks at it with h5py.
    with open_regular(shard.path) as raw, h5py.File(raw, "r") as file:
        for problem in shard.params.shard_problems(file, shard.size):
            raise ValueError(problem)
        id_bytes = max(2, (shard.params.vocab_size - 1).bit_length() + 7 >> 3)
        chunks = {name: _chunks_of(file[name], name, id_bytes if name in ID_KEYS else None) for name in DATASETS}
        data = file[CONTENT_DATA]
        chunks[CONTENT_DATA] = _Chunks(1, len(data), (), data.dtype, 1, [data.id.get_offset() or 0], [len(data)])
        return chunks


def _chunks_of(dataset: h5py.Dataset, name: str, used_bytes: int | None) -> _Chunks:
    entries, *row_shape = dataset.shape
    dtype = dataset.dtype
    used_bytes = used_bytes or dtype.itemsize
    if not entries:
        return _Chunks(1, 0, tuple(row_shape), dtype, used_bytes, [], [])
    chunk_rows = min(DATASETS[name].per_chunk, entries)
    stored = (dataset.chunks, dataset.compression, dataset.shuffle)
    if stored != ((chunk_rows, *row_shape), "gzip", dtype.itemsize > 1):
        raise ValueError(f"{name} is stored as {stored}, expected chunks of {chunk_rows} entries, shuffled and gzipped")
    count = -(-entries // chunk_rows)
    offsets, sizes = [-1] * count, [0] * count

    def note(info: Any) -> None:
        number = info.chunk_offset[0] // chunk_rows
        offsets[number], sizes[number] = info.byte_offset, info.size
        if info.filter_mask:
            offsets[number] = -1

    dataset.id.chunk_iter(note)
    if min(offsets) < 0:
        raise ValueError(f"chunk {offsets.index(-1)} of {name} is absent or not compressed")
    return _Chunks(chunk_rows, entries, tuple(row_shape), dtype, used_bytes, offsets, sizes)


def _check_sha256(shard: Shard) -> None:
    found = sha256_of(shard.path)
    if found != shard.sha256:
        raise ShardError(
            f"{shard.path}: has sha256 {found}, expected {shard.sha256}; "
            "copy the file again, or run create_hdf5_dataset again"
        )
