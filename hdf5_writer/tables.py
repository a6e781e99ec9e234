"""Build and read the tables `samples` and `images` of a shard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from hdf5_writer.image_spool import Contents
from hdf5_writer.row_stream import Samples
from hdf5_writer.rows import Placements, RowLayout
from hdf5_writer.schema import DATASETS

TABLES = ("samples", "images")
_Ints = npt.NDArray[np.int64]
_Array = npt.NDArray[Any]
_MAX_POSITIONS = 1 << 32  # more than a row has


class Tables:
    """Collects the columns of both tables; memory per sample is some tens of bytes, and per image its path."""

    def __init__(self, layout: RowLayout) -> None:
        self._layout = layout
        self._parts: defaultdict[str, list[_Ints]] = defaultdict(list)
        self._paths: list[bytes] = []

    def add(self, samples: Samples, places: Placements, samples_per_row: _Ints) -> None:
        """Append the entries of some rows."""
        batch, slots = samples.batch, self._layout.num_patches
        images = np.diff(batch.image_offsets)
        # Number of images of the same sample before each image; their slots shift its start.
        before = np.arange(len(batch.image_at)) - np.repeat(batch.image_offsets[:-1], images)
        columns = {
            "samples/offsets": samples_per_row,
            "samples/start": places.start,
            "samples/length": places.length,
            "samples/source_file": samples.source_file,
            "samples/source_line": samples.source_line,
            "images/offsets": np.bincount(places.row, images, len(samples_per_row)).astype(np.int64),
            "images/start": np.repeat(places.start, images) + batch.image_at + before * slots,
            "images/slots": np.full(len(batch.image_at), slots),
        }
        for name, column in columns.items():
            self._parts[name].append(column)
        self._paths += [path.encode() for path in samples.image_paths]

    @property
    def paths(self) -> list[str]:
        """The path of each image, in row order."""
        return [path.decode() for path in self._paths]

    def columns(self, contents: Contents) -> dict[str, npt.NDArray[np.generic]]:
        """Return every column by its name and with its dtype in the file; `contents` are those of the images."""
        found: dict[str, npt.NDArray[np.generic]] = contents.columns()
        for name, spec in DATASETS.items():
            if name in found:
                continue
            if spec.dtype == "path":
                found[name] = np.array(self._paths, dtype=f"S{max(map(len, self._paths), default=0) or 1}")
            elif spec.entry != "positions":
                column = np.concatenate([np.zeros(0, np.int64), *self._parts[name]])
                if spec.entry == "offset":
                    column = np.append(0, np.cumsum(column))
                found[name] = column.astype(spec.dtype)
        return found


def read_tables(file: h5py.File | Mapping[str, h5py.Dataset]) -> dict[str, _Array]:
    """Read all columns of a shard that are not per position, by their names in the file."""
    return {name: file[name][:] for name, spec in DATASETS.items() if spec.entry != "positions"}


def tables_of_rows(tables: Mapping[str, _Array], start: int, stop: int) -> dict[str, _Array]:
    """Return the table entries of rows `start` to `stop` - 1, with offsets relative to their first entry."""
    found = {}
    for table in TABLES:
        offsets = tables[f"{table}/offsets"][start : stop + 1]
        for name, column in tables.items():
            if name.startswith(table):
                found[name] = offsets - offsets[0] if name.endswith("/offsets") else column[offsets[0] : offsets[-1]]
    return found


def rows_of_entries(tables: Mapping[str, _Array], table: str) -> _Ints:
    """Return the row number of each entry of a table, (entries,) int64."""
    counts = np.diff(tables[f"{table}/offsets"])
    return np.repeat(np.arange(len(counts)), counts)


def sample_of_image(tables: Mapping[str, _Array]) -> _Ints:
    """Return the number of the sample that contains each image, (images,) int64; -1 before the first sample."""
    places = (
        rows_of_entries(tables, table) * _MAX_POSITIONS + tables[f"{table}/start"].astype(np.int64) for table in TABLES
    )
    samples, images = places
    return np.searchsorted(samples, images, side="right") - 1


def images_of_samples(tables: Mapping[str, _Array]) -> _Ints:
    """Return the number of images of each sample, (samples,) int64."""
    return np.bincount(sample_of_image(tables), minlength=len(tables["samples/start"]))
