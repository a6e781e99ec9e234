"""Rows → the bytes of a shard file.

Rows are gathered in blocks of one HDF5 chunk; a full block is compressed at once, so memory holds one block of
rows and the compressed rest. The file is put together in memory and handed out as bytes: writing it is then one
plain file write, whose errors (no space, no permission) are ordinary.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import h5py
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from hdf5_writer.rows import RowLayout, RowMeasures, clear_rows, empty_rows, write_rows
from hdf5_writer.schema import DATASETS, GZIP_LEVEL, DatasetSpec
from preprocess.samples import SampleBatch

# Metadata with checksums, readable since HDF5 1.10.
_LIBVER = ("v110", "v110")
LENGTH_BIN = 64
# Not 1 or 2: with those, ISA-L's output depends on what happened to be in the memory it works in. A new process in
# twenty compressed small chunks otherwise than the rest did (isal 1.9.1). Level 0 keeps its tables in its own state.
_ISAL_LEVEL = 0
# One of so many blocks is read back after writing, beside the first and the last.
_READ_BACK_EVERY = 32


@dataclass
class RowCounts:
    """Sums over the rows of a shard.

    Attributes:
        rows, rows_with_image, truncated: rows.
        text_only_cut: those truncated rows that have no image, whose dummy slots took the place of text.
        text_tokens, supervised, image, padding: positions of rows; text + image + padding is all of them.
            `image` counts the slots of rows with an image, `padding` also the dummy slots of text-only rows.
        lengths: used positions (dummy slots left out) // LENGTH_BIN → rows.
    """

    rows: int = 0
    rows_with_image: int = 0
    truncated: int = 0
    text_only_cut: int = 0
    text_tokens: int = 0
    supervised: int = 0
    lengths: Counter[int] = field(default_factory=Counter)


class ShardBuilder:
    """Takes rows in order and makes the file."""

    def __init__(
        self,
        layout: RowLayout,
        attributes: dict[str, int | str],
        lap: Callable[[str], None] = lambda stage: None,
        *,
        verify_all: bool = False,
    ) -> None:
        """Start an empty one.

        Args:
            layout: of its rows.
            attributes: the file's, but for `n_examples`.
            lap: told the name of each stage when it ends.
            verify_all: read every block back, not only the first, every 32nd and the last.
        """
        self._verify_all = verify_all
        # Block → its rows and the CRC-32 of each wide dataset, of the blocks that are read back.
        self._written: dict[int, tuple[int, dict[str, int]]] = {}
        self.counts = RowCounts()
        self._layout = layout
        self._attributes = attributes
        self._lap = lap
        self._block_rows = DATASETS["labels"].rows_per_chunk
        self._rows = empty_rows(self._block_rows, layout)
        self._filled = self._width = 0
        self._chunks: dict[str, list[bytes]] = {name: [] for name, spec in DATASETS.items() if spec.row == "positions"}
        self._paths: list[bytes] = []
        self._narrow: dict[str, list[int]] = {"modality_lengths": [], "source_file": [], "source_line": []}

    def add(
        self,
        batch: SampleBatch,
        facts: RowMeasures,
        image_paths: Sequence[str | None],
        source_files: Sequence[int],
        source_lines: Sequence[int],
    ) -> None:
        """Append the rows of a batch, of which nothing is wrong by `hdf5_writer.rows.measure_rows`."""
        done, count = 0, len(image_paths)
        while done < count:
            taken = min(count - done, self._block_rows - self._filled)
            free = self._rows.part(self._filled, self._block_rows)
            write_rows(batch.part(done, done + taken), facts.part(done, done + taken), self._layout, free)
            self._narrow["modality_lengths"] += free.modality_lengths[:taken].tolist()
            self._width = max(self._width, int(facts.used[done : done + taken].max()))
            self._filled += taken
            done += taken
            if self._filled == self._block_rows:
                self._lap("assemble")
                self._compress_block(self._block_rows)
                self._lap("compress")
        self._paths += [(path or "").encode() for path in image_paths]
        self._narrow["source_file"] += source_files
        self._narrow["source_line"] += source_lines
        counts = self.counts
        counts.rows += count
        counts.rows_with_image += count - int(facts.text_only.sum())
        counts.truncated += int(facts.truncated.sum())
        counts.text_only_cut += int((facts.truncated & facts.text_only).sum())
        counts.text_tokens += int(facts.text_tokens.sum())
        counts.supervised += int(facts.supervised.sum())
        counts.lengths.update((np.where(facts.text_only, facts.text_tokens, facts.used) // LENGTH_BIN).tolist())

    def finish(self) -> bytes:
        """The whole HDF5 file. The builder is used up.

        Raises:
            RuntimeError: what HDF5 reads back is not what was written.
        """
        rows = self.counts.rows
        self._lap("assemble")
        if rows and not self._filled:
            # The last block was full, and is in the buffer still.
            self._note_written(len(self._chunks["labels"]) - 1, self._block_rows)
        clear_rows(self._rows.part(self._filled, self._block_rows), self._layout)
        if self._filled:
            # A shard of less than one chunk has chunks of its own size; otherwise the last one is filled up.
            self._compress_block(self._block_rows if rows > self._block_rows else rows, is_last=True)
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
        self._lap("compress")
        _read_back(image, self._block_rows, self._written, columns)
        return image

    def _note_written(self, number: int, rows: int) -> None:
        """Keep the checksums of the block that stands in the buffer, to be read back."""
        block = self._rows.part(0, rows)
        self._written[number] = (rows, {name: isal_zlib.crc32(getattr(block, name).data) for name in self._chunks})

    def _compress_block(self, rows: int, *, is_last: bool = False) -> None:
        number = len(self._chunks["labels"])
        if self._verify_all or is_last or number % _READ_BACK_EVERY == 0:
            self._note_written(number, self._filled)
        for name, chunks in self._chunks.items():
            array: npt.NDArray[np.generic] = getattr(self._rows, name)
            chunks.append(compress_chunk(array[:rows], self._width))
        self._filled = self._width = 0

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


def compress_chunk(array: npt.NDArray[np.generic], width: int | None = None) -> bytes:
    """What HDF5's shuffle and deflate filters make of a chunk, by ISA-L: several times faster than zlib.

    `width`: how many columns there are before those of padding, which are all alike.
    """
    data = np.ascontiguousarray(array)
    if data.dtype == np.dtype("<i4") and data.ndim == 2 and width is not None:
        data = _int_planes(data.view(np.uint32), width)
    elif data.dtype.itemsize > 1:
        data = np.ascontiguousarray(data.view(np.uint8).reshape(-1, data.dtype.itemsize).T)
    return isal_zlib.compress(data.data, _ISAL_LEVEL)


def _int_planes(array: npt.NDArray[np.uint32], width: int) -> npt.NDArray[np.uint8]:
    """HDF5's shuffle: the first byte of every element, then the second of every element, …

    Shifts are several times faster than a transposition, and most of the columns are padding, whose bytes are known.
    """
    planes = np.zeros((4, *array.shape), dtype=np.uint8)
    padding = int(array[0, -1]) if width < array.shape[1] else 0
    used = array[:, :width]
    for plane in range((max(int(used.max(initial=0)), padding).bit_length() + 7) // 8):
        np.right_shift(used, 8 * plane, out=planes[plane, :, :width], casting="unsafe", dtype=np.uint32)
        if padding >> 8 * plane:
            planes[plane, :, width:] = padding >> 8 * plane & 0xFF
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
    image: bytes,
    block_rows: int,
    written: dict[int, tuple[int, dict[str, int]]],
    columns: dict[str, npt.NDArray[np.generic]],
) -> None:
    """Read some blocks, and every narrow column, the way any reader does, and compare with what was written.

    `written`: block → its rows and the CRC-32 of each wide dataset.
    """
    with h5py.File(io.BytesIO(image), "r") as file:
        for name, column in columns.items():
            if not np.array_equal(file[name][:], column):
                raise RuntimeError(_mismatch(name, "its values"))
        for number, (rows, checksums) in written.items():
            start = number * block_rows
            for name, checksum in checksums.items():
                found = np.ascontiguousarray(file[name][start : start + rows])
                if isal_zlib.crc32(found.data) != checksum:
                    raise RuntimeError(_mismatch(name, f"rows {start} to {start + rows - 1}"))


def _mismatch(name: str, what: str) -> str:
    return f"read-back mismatch: HDF5 gives other values of {name} ({what}) than were written; no shard was made"
