"""Read decoded blocks of rows from shards.

HDF5 is used once per shard and process, to find the file offset of each chunk. After that, reading a block takes one
file read and one inflate call per dataset (by ISA-L, which checks the Adler-32 at the end of each stream, as HDF5
would). No HDF5 handle stays open or is inherited by a forked worker, and a few file descriptors are enough for any
number of shards.
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
from preprocess.regular_files import open_descriptor, open_regular, unreadable

# Number of cached decoded chunks of table columns; each holds a few thousand entries.
_COLUMN_CHUNKS = 64
BLOCK_ROWS = DATASETS["labels"].per_chunk

T = TypeVar("T")
_InflateError = cast(type[Exception], isal_zlib.error)


class ShardError(ValueError):
    """A shard cannot be opened, is damaged or was changed."""


class ShardReader:
    """Reads blocks of many shards; caches the most recently used blocks and a few open files."""

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
            shards: the shards to read from.
            cache_blocks: number of cached blocks.
            open_files: number of files kept open.
            threads: number of threads that read the blocks of one call; inflating releases the GIL.
            verify: compare the sha256 of a shard with `data_params.json` before this process first reads it.
        """
        self._shards = list(shards)
        self._cache_blocks = cache_blocks
        self._open_files = open_files
        self._threads = threads
        self._verify = verify
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        # Protects the caches below, and reading: the descriptor of a file closed by another thread may be reused.
        # Decoding runs without the lock.
        self._lock = threading.RLock()
        self._executor: ThreadPoolExecutor | None = None
        self._files: OrderedDict[int, int] = OrderedDict()
        self._chunks: dict[int, dict[str, _Chunks]] = {}
        self._blocks: OrderedDict[tuple[int, int], Block] = OrderedDict()
        self._columns: OrderedDict[tuple[int, str, int], Array] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # File descriptors are not valid in a spawned process, and caches would be copied.
        left_out = ("_process", "_lock", "_executor", "_files", "_chunks", "_blocks", "_columns")
        return {key: value for key, value in self.__dict__.items() if key not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            with contextlib.suppress(OSError):
                os.close(file)

    def block(self, shard: int, number: int) -> Block:
        """Return the block of a shard that starts at row `number * BLOCK_ROWS`; see `blocks`."""
        return self.blocks([(shard, number)])[shard, number]

    def blocks(self, wanted: Collection[tuple[int, int]]) -> dict[tuple[int, int], Block]:
        """Return several blocks, each given by its shard and its number in the shard.

        Raises:
            ShardError: a shard cannot be opened, is damaged or was changed.
            OSError: reading from an open shard fails.
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
        """Reset after a fork, which copies the lock, possibly held, but not the threads."""
        if self._process != os.getpid():
            self.__del__()
            self._reset()

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
        """Return the positions of the samples of some rows."""
        bounds = self.column(shard, "samples/offsets", start, stop + 1).tolist()
        return _by_row(self.column(shard, "samples/length", bounds[0], bounds[-1]).tolist(), bounds)

    def _images(self, shard: int, start: int, stop: int) -> list[list[StoredImage]]:
        """Return the images of some rows."""
        bounds = self.column(shard, "images/offsets", start, stop + 1).tolist()
        first, end = bounds[0], bounds[-1]
        columns = (self.column(shard, f"images/{name}", first, end).tolist() for name in ("path", "start", "slots"))
        return _by_row(list(map(StoredImage, range(first, end), *columns)), bounds)

    def whole_column(self, shard: int, name: str) -> Array:
        """Return all entries of a column."""
        self._after_fork()
        with self._lock:
            entries = self._index(shard)[name].entries
        return self.column(shard, name, 0, entries)

    def offset_of(self, shard: int, name: str) -> int:
        """Return the file offset of a contiguous dataset of bytes."""
        self._after_fork()
        with self._lock:
            return self._index(shard)[name].offsets[0]

    def read_into(self, shard: int, offset: int, buffer: Array) -> int:
        """Fill a buffer with the bytes of a file from an offset; return the number of bytes read."""
        self._after_fork()
        with self._lock:
            return os.preadv(self._file(shard), [buffer.data], offset)

    def column(self, shard: int, name: str, start: int, stop: int) -> Array:
        """Return entries of a table column, such as `samples/length`."""
        parts = []
        self._after_fork()
        with self._lock:
            per_chunk = self._index(shard)[name].entries_per_chunk
            while start < stop:
                number, offset = divmod(start, per_chunk)
                end = min(stop, (number + 1) * per_chunk)
                parts.append(self._column_chunk(shard, name, number)[offset : offset + end - start])
                start = end
        if not parts:
            return np.zeros(0, dtype=np.int32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _column_chunk(self, shard: int, name: str, number: int) -> Array:
        key = (shard, name, number)
        if key in self._columns:
            self._columns.move_to_end(key)
        else:
            self._columns[key] = self._read_chunk(shard, name, number, _Chunks.decode)
            if len(self._columns) > _COLUMN_CHUNKS:
                self._columns.popitem(last=False)
        return self._columns[key]

    def _read_chunk(self, shard: int, name: str, number: int, decode: Callable[[_Chunks, bytes], Array]) -> Array:
        with self._lock:
            chunks = self._index(shard)[name]
            data = os.pread(self._file(shard), chunks.sizes[number], chunks.offsets[number])
        try:
            return decode(chunks, data)
        except (_InflateError, ValueError) as error:
            start = number * chunks.entries_per_chunk
            raise ShardError(
                f"{self._shards[shard].path}: {name} is damaged from entry {start} on ({error}); "
                "copy the file again, or run create_hdf5_dataset again"
            ) from None

    def _file(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        if len(self._files) >= self._open_files:
            os.close(self._files.popitem(last=False)[1])
        entry = self._shards[shard]
        try:
            file = open_descriptor(entry.path)
        except OSError as error:
            remedy = "copy the file again, or run create_hdf5_dataset again"
            raise ShardError(f"{entry.path}: {unreadable(error, remedy)}") from None
        size = os.fstat(file).st_size
        if size != entry.bytes:
            os.close(file)
            raise ShardError(f"{entry.path}: has {size} bytes, expected {entry.bytes}; it was changed during reading")
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
                    f"{entry.path}: is not a shard of this project, or is damaged ({error}); rerun create_hdf5_dataset"
                ) from None
        return self._chunks[shard]


@dataclass(frozen=True)
class _Chunks:
    """Offsets and storage format of the chunks of one dataset.

    Attributes:
        entries_per_chunk, entries: number of entries in a chunk, and in the whole dataset.
        used_bytes: number of low bytes per item that can be non-zero. The remaining bytes are not inflated; the
            Adler-32 of the stream proves that they are zero. This halves the time.
    """

    entries_per_chunk: int
    entries: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    used_bytes: int
    offsets: list[int]
    sizes: list[int]

    def planes(self, data: bytes) -> Array:
        """Inflate a chunk to (bytes per item, entries, *row_shape) uint8, with the lowest bytes of all items first.

        For ids, high bytes that are zero are omitted; items of one byte are (entries, *row_shape).
        """
        plane = self.entries_per_chunk * int(np.prod(self.row_shape, dtype=np.int64))
        width, shape = self.dtype.itemsize, (self.entries_per_chunk, *self.row_shape)
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
        """Inflate and unshuffle a chunk to (entries, *row_shape), read-only."""
        array = self.planes(data)
        if self.dtype.itemsize > 1:
            array = np.ascontiguousarray(np.moveaxis(array, 0, -1))
        array = array.view(self.dtype).reshape(self.entries_per_chunk, *self.row_shape)
        array.setflags(write=False)  # cached: a caller who writes into it would change later batches
        return array


def _by_row(entries: list[T], bounds: list[int]) -> list[list[T]]:
    """Split entries of a table, which start at `bounds[0]`, into those of each row."""
    return [entries[begin - bounds[0] : end - bounds[0]] for begin, end in pairwise(bounds)]


def _adler32_with_zeros(data: bytes, zeros: int) -> bytes:
    """Return the Adler-32 of data followed by `zeros` zero bytes, as at the end of a zlib stream (RFC 1950)."""
    checksum = isal_zlib.adler32(data)
    low = checksum & 0xFFFF
    return (((checksum >> 16) + zeros * low) % 65521 << 16 | low).to_bytes(4, "big")


def _find_chunks(shard: Shard) -> dict[str, _Chunks]:
    # Opened as a file object: by path, HDF5 would lock the file, or refuse it if h5py has it open in this process.
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

    def record_chunk(info: Any) -> None:
        number = info.chunk_offset[0] // chunk_rows
        offsets[number], sizes[number] = info.byte_offset, info.size
        if info.filter_mask:
            offsets[number] = -1

    dataset.id.chunk_iter(record_chunk)
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
