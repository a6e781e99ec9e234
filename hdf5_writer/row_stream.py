"""Samples, as their records come → rows, in the order in which they stand in the shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdf5_writer.fitting import SampleMeasures
from hdf5_writer.planning.pack import Packed
from preprocess.samples import SampleBatch, join_batches

_Ints = npt.NDArray[np.int64]
# Positions that are packed together, some 10,000 samples of LLaVA's: as good as any number (docs/packing.md). So much
# is in memory at a time, however long a shard is: 5 bytes for each token of text, twice.
WINDOW_POSITIONS = 1 << 23
# Rows that are put together at a time of a window.
_ROWS_AT_A_TIME = 64


class Samples(NamedTuple):
    """Samples that fit into rows, and where they came from.

    Attributes:
        batch, measures: as `hdf5_writer.fitting.fit_samples` gives them, for n samples with m images in all.
        source_file: (n,), index of the input.
        source_line: (n,), line in it, from 1.
        image_paths: (m,), relative to the image folder.
    """

    batch: SampleBatch
    measures: SampleMeasures
    source_file: _Ints
    source_line: _Ints
    image_paths: list[str]

    def part(self, start: int, stop: int) -> Samples:
        """Samples `start` to `stop`."""
        images = self.batch.image_begins
        return Samples(
            self.batch.part(start, stop),
            self.measures.part(start, stop),
            self.source_file[start:stop],
            self.source_line[start:stop],
            self.image_paths[images[start] : images[stop]],
        )

    def take(self, order: _Ints) -> Samples:
        """Samples by number, in the order given."""
        batch = self.batch
        ids, begins = _gather(batch.begins, order)
        images, image_begins = _gather(batch.image_begins, order)
        return Samples(
            SampleBatch(batch.ids[ids], batch.supervised[ids], begins, batch.image_at[images], image_begins),
            self.measures.take(order),
            self.source_file[order],
            self.source_line[order],
            [self.image_paths[image] for image in images.tolist()],
        )


def join_samples(parts: Sequence[Samples]) -> Samples:
    """One behind the other; at least one part."""
    return Samples(
        join_batches([part.batch for part in parts]),
        SampleMeasures._make(np.concatenate(arrays) for arrays in zip(*(part.measures for part in parts), strict=True)),
        np.concatenate([part.source_file for part in parts]),
        np.concatenate([part.source_line for part in parts]),
        [path for part in parts for path in part.image_paths],
    )


def _gather(begins: _Ints, order: _Ints) -> tuple[_Ints, _Ints]:
    """Numbers of the elements of some samples, one sample behind the other, and where each then begins."""
    counts = np.diff(begins)[order]
    after = np.append(0, np.cumsum(counts))
    return np.arange(after[-1]) + np.repeat(begins[order] - after[:-1], counts), after


class RowStream:
    """One sample a row, or packed rows."""

    def __init__(
        self,
        sink: Callable[[Samples, _Ints], None],
        pack: Callable[[_Ints, _Ints, int], Packed] | None = None,
        *,
        window_positions: int = WINDOW_POSITIONS,
    ) -> None:
        """Start a shard.

        Args:
            sink: takes samples, row by row, and how many of them each of these rows has.
            pack: gives the rows of a window for the lengths and images of its samples and its number, counted from 0;
                None gives each sample a row of its own, at once.
            window_positions: a window ends with the sample that reaches so many.
        """
        self._sink = sink
        self._make_rows = pack
        self._window_positions = window_positions
        self._waiting: list[Samples] = []
        self._positions = self._windows = 0

    def add(self, samples: Samples) -> None:
        """Take samples, in the order of their records."""
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
        """Give out the samples that still wait for others."""
        if self._waiting:
            self._pack()

    def _pack(self) -> None:
        assert self._make_rows is not None
        samples = join_samples(self._waiting)
        self._waiting.clear()
        packed = self._make_rows(samples.measures.length, samples.measures.images, self._windows)
        self._positions, self._windows = 0, self._windows + 1
        begins = np.append(0, np.cumsum(packed.samples_per_row))
        for row in range(0, len(packed.samples_per_row), _ROWS_AT_A_TIME):
            some = packed.samples_per_row[row : row + _ROWS_AT_A_TIME]
            self._sink(samples.take(packed.order[begins[row] : begins[row + len(some)]]), some)
