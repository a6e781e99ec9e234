"""Build the bytes of a shard file from its rows.

Rows are collected in blocks of one HDF5 chunk; a full block is compressed at once, so memory holds one uncompressed
block and the compressed rest. The file, except for its stored images, is assembled in memory and returned as bytes, so
that writing it is a plain file write with ordinary errors (no space, no permission). HDF5 only reserves space for the
images, which are copied from the spool while the file is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import h5py
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from hdf5_writer.chunks import compress_chunk, compress_column, write_chunks
from hdf5_writer.image_spool import Contents, ImageSpool, unread_contents
from hdf5_writer.row_stream import Samples
from hdf5_writer.rows import RowLayout, clear_rows, empty_rows, place_samples, write_rows
from hdf5_writer.schema import CONTENT_DATA, DATA_ALIGNMENT, DATASETS, ShardSize, size_attributes
from hdf5_writer.sparse_file import SparseFile
from hdf5_writer.tables import Tables

# Metadata with checksums, readable since HDF5 1.10.
_LIBVER = ("v110", "v110")
LENGTH_BIN = 64
# Every 32nd block is read back after writing, as well as the last one.
_READ_BACK_EVERY = 32


@dataclass
class ShardCounts:
    """Sums over a shard.

    Attributes:
        rows, samples, images: numbers of each.
        samples_with_image, truncated: number of samples with an image, and of truncated ones.
        text_only_cut: truncated samples of fixed rows without an image, where dummy slots took the place of text.
        images_cut: images that did not fit, or that no supervised token follows.
        most_images: largest number of images in a row.
        contents, stored_bytes: distinct contents of the images that were read, and the bytes stored of them.
        text_tokens, supervised: positions. Text and image slots are attended; all other positions, including the dummy
            slots of fixed text-only rows, are padding.
        lengths: attended positions of a sample // LENGTH_BIN → number of samples.
    """

    rows: int = 0
    samples: int = 0
    images: int = 0
    samples_with_image: int = 0
    truncated: int = 0
    text_only_cut: int = 0
    images_cut: int = 0
    most_images: int = 0
    contents: int = 0
    stored_bytes: int = 0
    text_tokens: int = 0
    supervised: int = 0
    lengths: Counter[int] = field(default_factory=Counter)

    def add(self, samples: Samples, samples_per_row: npt.NDArray[np.int64], layout: RowLayout) -> None:
        """Add the counts of some rows."""
        measures = samples.measures
        text_only = measures.images == 0
        offsets = np.cumsum(samples_per_row) - samples_per_row
        self.rows += len(samples_per_row)
        self.samples += len(text_only)
        self.images += int(measures.images.sum())
        self.samples_with_image += len(text_only) - int(text_only.sum())
        self.truncated += int(measures.truncated.sum())
        if layout.image_start_idx is not None:
            self.text_only_cut += int((measures.truncated & text_only).sum())
        self.images_cut += int(measures.images_cut.sum())
        if len(offsets):
            self.most_images = max(self.most_images, int(np.add.reduceat(measures.images, offsets).max()))
        self.text_tokens += int(measures.text_tokens.sum())
        self.supervised += int(measures.supervised.sum())
        attended = measures.text_tokens + measures.images * layout.num_patches
        self.lengths.update((attended // LENGTH_BIN).tolist())


@dataclass(frozen=True)
class ShardFile:
    """A finished shard that is not written to disk yet.

    Attributes:
        facts_digest: digest of the paths, sizes and times of its image files; see `image_spool.facts_digest`.
    """

    facts_digest: str
    _file: SparseFile
    _data_at: int
    _contents: Contents
    _images: ImageSpool | None

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self._file.size

    def parts(self) -> Iterator[bytes]:
        """Yield its bytes in order."""
        stored = self._images.payload(self._contents) if self._images is not None else ()
        return self._file.with_replaced(self._data_at, self._contents.stored_bytes, stored)


class ShardBuilder:
    """Collects rows in order and builds the HDF5 file."""

    def __init__(
        self,
        layout: RowLayout,
        attributes: dict[str, int | str],
        end_stage: Callable[[str], None] = lambda stage: None,
        *,
        images: ImageSpool | None = None,
        verify_all: bool = False,
    ) -> None:
        """Create an empty shard.

        Args:
            layout: layout of its rows.
            attributes: file attributes, except the numbers of entries.
            end_stage: called with the name of each stage when it ends.
            images: holds the images of all rows; None if image files are not read.
            verify_all: read every block back, not only the first, every 32nd and the last.
        """
        self._verify_all = verify_all
        # For each block that is read back: its number of rows and the CRC-32 of each per-position dataset.
        self._written: dict[int, tuple[int, dict[str, int]]] = {}
        self.counts = ShardCounts()
        self._layout = layout
        self._attributes = attributes
        self._end_stage = end_stage
        self._images = images
        self._block_rows = DATASETS["labels"].per_chunk
        self._rows = empty_rows(self._block_rows, layout)
        self._filled = self._width = 0
        self._chunks: dict[str, list[bytes]] = {
            name: [] for name, spec in DATASETS.items() if spec.entry == "positions"
        }
        self._tables = Tables(layout)

    def add(self, samples: Samples, samples_per_row: npt.NDArray[np.int64]) -> None:
        """Append rows.

        Args:
            samples: the samples of these rows, row by row.
            samples_per_row: (rows,) number of samples in each row.
        """
        places = place_samples(samples.measures.length, samples_per_row)
        offsets = np.append(0, np.cumsum(samples_per_row))
        done, count = 0, len(samples_per_row)
        while done < count:
            taken = min(count - done, self._block_rows - self._filled)
            first, last = int(offsets[done]), int(offsets[done + taken])
            free = self._rows.part(self._filled, self._block_rows)
            width = write_rows(samples.batch.part(first, last), places.part(done, first, last), self._layout, free)
            self._width = max(self._width, width)
            self._filled += taken
            done += taken
            if self._filled == self._block_rows:
                self._end_stage("assemble")
                self._compress_block(self._block_rows)
                self._end_stage("compress")
        self._tables.add(samples, places, samples_per_row)
        self.counts.add(samples, samples_per_row, self._layout)

    def finish(self) -> ShardFile:
        """Return the complete HDF5 file; the builder must not be used afterwards.

        Raises:
            RuntimeError: read-back mismatch.
        """
        rows = self.counts.rows
        self._end_stage("assemble")
        if rows and not self._filled:
            # The last block was full and is still in the buffer.
            self._note_written(len(self._chunks["labels"]) - 1, self._block_rows)
        clear_rows(self._rows.part(self._filled, self._block_rows), self._layout)
        if self._filled:
            # A shard smaller than one chunk has one chunk of its own size; otherwise the last chunk is padded.
            self._compress_block(self._block_rows if rows > self._block_rows else rows, is_last=True)
        paths = self._tables.paths
        contents = unread_contents(len(paths)) if self._images is None else self._images.contents(paths)
        counts = self.counts
        counts.contents, counts.stored_bytes = len(contents.crc32), contents.stored_bytes
        columns = self._tables.columns(contents)
        size = ShardSize(rows, counts.samples, counts.images, counts.contents, counts.stored_bytes)
        target = SparseFile()
        alignment = {"alignment_threshold": max(size.stored_bytes, 1), "alignment_interval": DATA_ALIGNMENT}
        with h5py.File(target, "w", libver=_LIBVER, **(alignment if size.stored_bytes else {})) as file:
            for key, value in {**self._attributes, **size_attributes(size)}.items():
                # Fixed-length strings are stored in the object header, which has a checksum. Variable-length strings
                # are stored in a heap without one, where a flipped bit can make HDF5 2.0 loop forever.
                file.attrs[key] = np.bytes_(value.encode()) if isinstance(value, str) else value
            for name, spec in DATASETS.items():
                shape = spec.shape(size, self._layout.max_sequence_length)
                if spec.entry == "positions":
                    write_chunks(file, spec, shape, np.dtype(spec.dtype), self._chunks.pop(name))
                else:
                    write_chunks(file, spec, shape, columns[name].dtype, compress_column(columns[name], spec))
            data_at = _reserve(file, size.stored_bytes)
        self._end_stage("compress")
        _read_back(target, self._block_rows, self._written, columns)
        return ShardFile(contents.facts_digest, target, data_at, contents, self._images)

    def _note_written(self, number: int, rows: int) -> None:
        """Keep the checksums of the block in the buffer, for reading it back later."""
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


def _reserve(file: h5py.File, size: int) -> int:
    """Create the dataset of stored images without writing its data; return its offset in the file."""
    kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_layout(h5py.h5d.CONTIGUOUS)
    kind.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    kind.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind.set_obj_track_times(False)  # timestamps would make the bytes differ from run to run
    space = h5py.h5s.create_simple((size,))
    dataset = h5py.h5d.create(file.id, CONTENT_DATA.encode(), h5py.h5t.STD_U8LE, space, kind)
    return int(dataset.get_offset()) if size else 0


def _read_back(
    image: SparseFile,
    block_rows: int,
    written: dict[int, tuple[int, dict[str, int]]],
    columns: dict[str, npt.NDArray[np.generic]],
) -> None:
    """Read some blocks and every table column back through HDF5, and compare them with what was written.

    `written`: block number → its number of rows and the CRC-32 of each per-position dataset.
    """
    with h5py.File(image, "r") as file:
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
    return f"read-back mismatch: HDF5 returned other values of {name} ({what}) than were written; no shard was saved"
