"""Rows → the bytes of a shard file.

Rows are gathered in blocks of one HDF5 chunk; a full block is compressed at once, so memory holds one block of
rows and the compressed rest. The file is put together in memory, but for the images stored in it, and handed out as
bytes: writing it is then a plain file write, whose errors (no space, no permission) are ordinary. HDF5 only reserves
the place of the images, which come from the disk while the file is written.
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
# One of so many blocks is read back after writing, beside the first and the last.
_READ_BACK_EVERY = 32


@dataclass
class ShardCounts:
    """Sums over a shard.

    Attributes:
        rows, samples, images: how much it holds.
        samples_with_image, truncated: samples.
        text_only_cut: those truncated samples of fixed rows that have no image: dummy slots took the place of text.
        images_cut: images that did not fit, or that nothing supervised follows.
        most_images: images of the row that has the most.
        contents, stored_bytes: distinct contents of the images, where they were read, and what is stored of them.
        text_tokens, supervised: positions. Text and the slots of images are what is attended; the rest of all
            positions is padding, the dummy slots of fixed text-only rows among it.
        lengths: positions of a sample (dummy slots left out) // LENGTH_BIN → samples.
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
        """Count rows."""
        measures = samples.measures
        text_only = measures.images == 0
        begins = np.cumsum(samples_per_row) - samples_per_row
        self.rows += len(samples_per_row)
        self.samples += len(text_only)
        self.images += int(measures.images.sum())
        self.samples_with_image += len(text_only) - int(text_only.sum())
        self.truncated += int(measures.truncated.sum())
        if layout.image_start_idx is not None:
            self.text_only_cut += int((measures.truncated & text_only).sum())
        self.images_cut += int(measures.images_cut.sum())
        if len(begins):
            self.most_images = max(self.most_images, int(np.add.reduceat(measures.images, begins).max()))
        self.text_tokens += int(measures.text_tokens.sum())
        self.supervised += int(measures.supervised.sum())
        attended = measures.text_tokens + measures.images * layout.num_patches
        self.lengths.update((attended // LENGTH_BIN).tolist())


@dataclass(frozen=True)
class ShardFile:
    """A shard that is to be written.

    Attributes:
        facts_digest: of the files of its images; see `ImageSpool`.
    """

    facts_digest: str
    _file: SparseFile
    _data_at: int
    _contents: Contents
    _images: ImageSpool | None

    @property
    def size(self) -> int:
        """In bytes."""
        return self._file.size

    def parts(self) -> Iterator[bytes]:
        """Its bytes in order."""
        stored = self._images.payload(self._contents) if self._images is not None else ()
        return self._file.around(self._data_at, self._contents.stored_bytes, stored)


class ShardBuilder:
    """Takes rows in order and makes the file."""

    def __init__(
        self,
        layout: RowLayout,
        attributes: dict[str, int | str],
        lap: Callable[[str], None] = lambda stage: None,
        *,
        images: ImageSpool | None = None,
        verify_all: bool = False,
    ) -> None:
        """Start an empty one.

        Args:
            layout: of its rows.
            attributes: the file's, but for those that say how much it holds.
            lap: told the name of each stage when it ends.
            images: has read the images of all rows; None where their files are not read.
            verify_all: read every block back, not only the first, every 32nd and the last.
        """
        self._verify_all = verify_all
        # Block → its rows and the CRC-32 of each wide dataset, of the blocks that are read back.
        self._written: dict[int, tuple[int, dict[str, int]]] = {}
        self.counts = ShardCounts()
        self._layout = layout
        self._attributes = attributes
        self._lap = lap
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
            samples: of these rows, row by row.
            samples_per_row: how many of them each row has.
        """
        places = place_samples(samples.measures.length, samples_per_row)
        begins = np.append(0, np.cumsum(samples_per_row))
        done, count = 0, len(samples_per_row)
        while done < count:
            taken = min(count - done, self._block_rows - self._filled)
            first, last = int(begins[done]), int(begins[done + taken])
            free = self._rows.part(self._filled, self._block_rows)
            width = write_rows(samples.batch.part(first, last), places.part(done, first, last), self._layout, free)
            self._width = max(self._width, width)
            self._filled += taken
            done += taken
            if self._filled == self._block_rows:
                self._lap("assemble")
                self._compress_block(self._block_rows)
                self._lap("compress")
        self._tables.add(samples, places, samples_per_row)
        self.counts.add(samples, samples_per_row, self._layout)

    def finish(self) -> ShardFile:
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
                # A string of fixed length stands in the header, under its checksum. Others stand in a heap that has
                # none, where one flipped bit makes HDF5 2.0 read for ever.
                file.attrs[key] = np.bytes_(value.encode()) if isinstance(value, str) else value
            for name, spec in DATASETS.items():
                shape = spec.shape(size, self._layout.max_sequence_length)
                if spec.entry == "positions":
                    write_chunks(file, spec, shape, np.dtype(spec.dtype), self._chunks.pop(name))
                else:
                    write_chunks(file, spec, shape, columns[name].dtype, compress_column(columns[name], spec))
            data_at = _reserve(file, size.stored_bytes)
        self._lap("compress")
        _read_back(target, self._block_rows, self._written, columns)
        return ShardFile(contents.facts_digest, target, data_at, contents, self._images)

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


def _reserve(file: h5py.File, size: int) -> int:
    """Make the dataset of stored images without writing it; where it begins in the file."""
    kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_layout(h5py.h5d.CONTIGUOUS)
    kind.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    kind.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind.set_obj_track_times(False)  # or the bytes would tell when they were written
    space = h5py.h5s.create_simple((size,))
    dataset = h5py.h5d.create(file.id, CONTENT_DATA.encode(), h5py.h5t.STD_U8LE, space, kind)
    return int(dataset.get_offset()) if size else 0


def _read_back(
    image: SparseFile,
    block_rows: int,
    written: dict[int, tuple[int, dict[str, int]]],
    columns: dict[str, npt.NDArray[np.generic]],
) -> None:
    """Read some blocks, and every column of the tables, the way any reader does, and compare with what was written.

    `written`: block → its rows and the CRC-32 of each wide dataset.
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
    return f"read-back mismatch: HDF5 gives other values of {name} ({what}) than were written; no shard was made"
