"""Rows → the bytes of a shard file.

Rows are gathered in blocks of one HDF5 chunk; a full block is compressed at once, so memory holds one block of
rows and the compressed rest. The file is put together in memory and handed out as bytes: writing it is then one
plain file write, whose errors (no space, no permission) are ordinary.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import dataclass, field

import h5py
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from hdf5_writer.schema import DATASETS, GZIP_LEVEL, DatasetSpec
from preprocess.features import RowArrays, RowLayout, clear_rows, empty_rows, write_row
from preprocess.tokens import TokenSequence

# Metadata with checksums, readable since HDF5 1.10.
_LIBVER = ("v110", "v110")
LENGTH_BIN = 64
# Not 1 or 2: with those, ISA-L's output depends on what happened to be in the memory it works in. A new process in
# twenty compressed small chunks otherwise than the rest did (isal 1.9.1). Level 0 keeps its tables in its own state.
_ISAL_LEVEL = 0


@dataclass
class RowCounts:
    """Sums over the rows of a shard.

    Attributes:
        rows, rows_with_image, truncated: rows.
        text_tokens, supervised, image, padding: positions of rows; text + image + padding is all of them.
            `image` counts the slots of rows with an image, `padding` also the dummy slots of text-only rows.
        lengths: used positions (dummy slots left out) // LENGTH_BIN → rows.
    """

    rows: int = 0
    rows_with_image: int = 0
    truncated: int = 0
    text_tokens: int = 0
    supervised: int = 0
    lengths: Counter[int] = field(default_factory=Counter)


class ShardBuilder:
    """Takes rows in order and makes the file."""

    def __init__(self, layout: RowLayout, attributes: dict[str, int | str]) -> None:
        """`attributes`: the file's attributes but for `n_examples`."""
        self.counts = RowCounts()
        self._layout = layout
        self._attributes = attributes
        self._block_rows = DATASETS["labels"].rows_per_chunk
        self._rows = empty_rows(self._block_rows, layout)
        self._filled = 0
        self._chunks: dict[str, list[bytes]] = {name: [] for name, spec in DATASETS.items() if spec.row == "positions"}
        self._paths: list[bytes] = []
        self._narrow: dict[str, list[int]] = {"modality_lengths": [], "source_file": [], "source_line": []}

    def add(self, sequence: TokenSequence, image_path: str | None, source_file: int, source_line: int) -> None:
        """Append one row.

        Raises:
            preprocess.rejects.Rejected: the row cannot be; nothing was appended.
        """
        facts = write_row(sequence, self._layout, self._rows, self._filled)
        length = int(self._rows.modality_lengths[self._filled])
        self._filled += 1
        self._paths.append((image_path or "").encode())
        self._narrow["modality_lengths"].append(length)
        self._narrow["source_file"].append(source_file)
        self._narrow["source_line"].append(source_line)
        counts = self.counts
        counts.rows += 1
        counts.rows_with_image += length > 0
        counts.truncated += facts.truncated
        counts.text_tokens += facts.text_tokens
        counts.supervised += facts.supervised
        counts.lengths[abs(length) // LENGTH_BIN] += 1
        if self._filled == self._block_rows:
            self._compress_block(self._block_rows)

    def finish(self) -> bytes:
        """The whole HDF5 file. The builder is used up.

        Raises:
            RuntimeError: what HDF5 reads back is not what was written.
        """
        rows = self.counts.rows
        last_block, last_rows = RowArrays(*(array[: self._filled].copy() for array in self._rows)), self._filled
        if self._filled:
            # A shard of less than one chunk has chunks of its own size; otherwise the last one is filled up.
            self._compress_block(self._block_rows if rows > self._block_rows else rows)
        columns: dict[str, npt.NDArray[np.generic]] = {
            name: np.array(values, dtype=DATASETS[name].dtype) for name, values in self._narrow.items()
        }
        columns["image_paths"] = np.array(self._paths, dtype=f"S{max(map(len, self._paths), default=0) or 1}")[:, None]
        with h5py.File("shard", "w", driver="core", backing_store=False, libver=_LIBVER) as file:
            for key, value in {**self._attributes, "n_examples": rows}.items():
                # A string of fixed length stands in the header, under its checksum. Others stand in a heap that has
                # none, where one flipped bit makes HDF5 2.0 read for ever.
                file.attrs[key] = np.bytes_(value.encode()) if isinstance(value, str) else value
            for name, spec in DATASETS.items():
                if spec.row == "positions":
                    self._create(file, spec, rows, np.dtype(spec.dtype), self._chunks.pop(name))
                else:
                    self._create(file, spec, rows, columns[name].dtype, _compress_column(columns[name], spec))
            file.flush()
            image: bytes = file.id.get_file_image()
        _read_back(image, rows, last_block, last_rows, columns)
        return image

    def _compress_block(self, rows: int) -> None:
        for name, chunks in self._chunks.items():
            array: npt.NDArray[np.generic] = getattr(self._rows, name)
            chunks.append(compress_chunk(array[:rows]))
        clear_rows(self._rows, self._layout)
        self._filled = 0

    def _create(
        self, file: h5py.File, spec: DatasetSpec, rows: int, dtype: np.dtype[np.generic], chunks: list[bytes]
    ) -> None:
        shape = spec.shape(rows, self._layout.max_sequence_length)
        stored = h5py.string_dtype("utf-8", dtype.itemsize) if spec.dtype == "path" else dtype
        if not rows:
            file.create_dataset(spec.name, shape=shape, dtype=stored)
            return
        chunk_rows = min(spec.rows_per_chunk, rows)
        dataset = file.create_dataset(
            spec.name,
            shape=shape,
            dtype=stored,
            chunks=(chunk_rows, *shape[1:]),
            compression="gzip",
            compression_opts=GZIP_LEVEL,
            shuffle=dtype.itemsize > 1,
        )
        start = (0,) * (len(shape) - 1)
        for number, chunk in enumerate(chunks):
            dataset.id.write_direct_chunk((number * chunk_rows, *start), chunk)


def compress_chunk(array: npt.NDArray[np.generic]) -> bytes:
    """What HDF5's shuffle and deflate filters make of a chunk, by ISA-L: several times faster than zlib."""
    data = np.ascontiguousarray(array)
    if data.dtype.itemsize > 1:
        data = _byte_planes(data)
    return isal_zlib.compress(data.data, _ISAL_LEVEL)


def _byte_planes(array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """HDF5's shuffle: the first byte of every element, then the second of every element, …"""
    size = array.dtype.itemsize
    if array.dtype != np.dtype("<i4"):
        return np.ascontiguousarray(array.view(np.uint8).reshape(-1, size).T)
    # Shifts are several times faster than a transposition, and the upper planes of small numbers are zero.
    flat: npt.NDArray[np.uint32] = array.reshape(-1).view(np.uint32)
    planes = np.zeros((size, flat.size), dtype=np.uint8)
    for plane in range((int(flat.max(initial=0)).bit_length() + 7) // 8):
        np.right_shift(flat, 8 * plane, out=planes[plane], casting="unsafe", dtype=np.uint32)
    return planes


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def _compress_column(column: npt.NDArray[np.generic], spec: DatasetSpec) -> list[bytes]:
    rows = min(spec.rows_per_chunk, len(column))
    chunks = []
    for start in range(0, len(column), rows or 1):
        part = column[start : start + rows]
        if len(part) < rows:
            part = np.concatenate((part, np.zeros((rows - len(part), *part.shape[1:]), dtype=part.dtype)))
        chunks.append(compress_chunk(part))
    return chunks


def _read_back(
    image: bytes, rows: int, block: RowArrays, block_rows: int, columns: dict[str, npt.NDArray[np.generic]]
) -> None:
    """Read the last rows, and every narrow column, the way any reader does, and compare."""
    with h5py.File(io.BytesIO(image), "r") as file:
        for name in DATASETS:
            if name in columns:
                found, expected = file[name][:], columns[name]
            else:
                found = file[name][rows - block_rows :]
                expected = getattr(block, name)[:block_rows]
            if not np.array_equal(found, expected):
                raise RuntimeError(f"HDF5 reads back other values of {name} than were written; no shard was made")
