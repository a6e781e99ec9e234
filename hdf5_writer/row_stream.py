"""Arrange samples, given in record order, into the rows of a shard: one sample per row, or packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdf5_writer.fitting import SampleMeasures
from hdf5_writer.planning.pack import Packed
from preprocess.samples import SampleBatch, join_batches

_Ints = npt.NDArray[np.int64]
# Positions of one packing window, about 10,000 LLaVA samples; larger windows do not fill rows better (docs/packing.md).
# The window bounds memory for any size of shard: 5 bytes per text token, twice.
WINDOW_POSITIONS = 1 << 23
# Rows of a window that are assembled at a time.
_ROWS_AT_A_TIME = 64


class Samples(NamedTuple):
    """Samples that fit into rows, and their sources.

    Attributes:
        batch, measures: n samples with m images in total, as returned by `hdf5_writer.fitting.fit_samples`.
        source_file: (n,) int64, index of the input.
        source_line: (n,) int64, line number in it, from 1.
        image_paths: (m,), relative to the image folder.
    """

    batch: SampleBatch
    measures: SampleMeasures
    source_file: _Ints
    source_line: _Ints
    image_paths: list[str]

    def part(self, start: int, stop: int) -> Samples:
        """Return samples `start` to `stop` - 1."""
        images = self.batch.image_offsets
        return Samples(
            self.batch.part(start, stop),
            self.measures.part(start, stop),
            self.source_file[start:stop],
            self.source_line[start:stop],
            self.image_paths[images[start] : images[stop]],
        )

    def take(self, order: _Ints) -> Samples:
        """Return the samples with the given numbers, in that order."""
        batch = self.batch
        ids, offsets = _gather(batch.offsets, order)
        images, image_offsets = _gather(batch.image_offsets, order)
        return Samples(
            SampleBatch(batch.ids[ids], batch.supervised[ids], offsets, batch.image_at[images], image_offsets),
            self.measures.take(order),
            self.source_file[order],
            self.source_line[order],
            [self.image_paths[image] for image in images.tolist()],
        )


def join_samples(parts: Sequence[Samples]) -> Samples:
    """Concatenate one or more parts."""
    return Samples(
        join_batches([part.batch for part in parts]),
        SampleMeasures._make(np.concatenate(arrays) for arrays in zip(*(part.measures for part in parts), strict=True)),
        np.concatenate([part.source_file for part in parts]),
        np.concatenate([part.source_line for part in parts]),
        [path for part in parts for path in part.image_paths],
    )


def _gather(offsets: _Ints, order: _Ints) -> tuple[_Ints, _Ints]:
    """Return the indices of the elements of the given samples, concatenated, and the offsets of the samples in them."""
    counts = np.diff(offsets)[order]
    after = np.append(0, np.cumsum(counts))
    return np.arange(after[-1]) + np.repeat(offsets[order] - after[:-1], counts), after


class RowStream:
    """Turns samples into rows with one sample each, or into packed rows, and passes them to a sink."""

    def __init__(
        self,
        sink: Callable[[Samples, _Ints], None],
        pack: Callable[[_Ints, _Ints, int], Packed] | None = None,
        *,
        window_positions: int = WINDOW_POSITIONS,
    ) -> None:
        """Start a shard.

        Args:
            sink: called with samples, row by row, and the number of samples in each row.
            pack: called with the lengths and image counts of the samples of a window and the number of the window
                (from 0); returns its rows. None puts each sample into its own row at once.
            window_positions: a window ends with the sample that reaches this number of positions.
        """
        self._sink = sink
        self._make_rows = pack
        self._window_positions = window_positions
        self._waiting: list[Samples] = []
        self._positions = self._windows = 0

    def add(self, samples: Samples) -> None:
        """Add samples, in record order."""
        if self._make_rows is None:
            self._sink(samples, np.ones(samples.batch.records, dtype=np.int64))
            return
        while samples.batch.records:
            reached = self._positions + np.cumsum(samples.measures.length)
            taken = int(np.searchsorted(reached, self._window_positions)) + 1
            if taken > samples.batch.records:
                self._waiting.append(samples)
                self._positions = int(reached[-1])
                return
            self._waiting.append(samples.part(0, taken))
            samples = samples.part(taken, samples.batch.records)
            self._pack()

    def finish(self) -> None:
        """Pass on the samples of the last, incomplete window."""
        if self._waiting:
            self._pack()

    def _pack(self) -> None:
        assert self._make_rows is not None
        samples = join_samples(self._waiting)
        self._waiting.clear()
        packed = self._make_rows(samples.measures.length, samples.measures.images, self._windows)
        self._positions, self._windows = 0, self._windows + 1
        offsets = np.append(0, np.cumsum(packed.samples_per_row))
        for row in range(0, len(packed.samples_per_row), _ROWS_AT_A_TIME):
            some = packed.samples_per_row[row : row + _ROWS_AT_A_TIME]
            self._sink(samples.take(packed.order[offsets[row] : offsets[row + len(some)]]), some)
