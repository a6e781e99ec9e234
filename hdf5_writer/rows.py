"""Write samples into fixed-length rows: shifted labels, image slots and padding, for fixed and free rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.samples import SampleBatch

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowLayout:
    """Properties that all rows of a dataset share.

    Attributes:
        max_sequence_length: positions in a row, including image slots.
        num_patches: slots of an image.
        image_start_idx: in fixed rows, the position of the first image slot in every row, also in text-only rows. None
            for free rows, where images are at their place in the text.
        pad_id: the id in image slots and padding.
        truncate: whether long samples are truncated; otherwise they are rejected.
    """

    max_sequence_length: int
    num_patches: int
    image_start_idx: int | None
    pad_id: int
    truncate: bool

    def slot_runs(self, batch: SampleBatch) -> tuple[_Ints, _Ints]:
        """Locate the runs of image slots, including the dummy slots of fixed text-only rows.

        Returns:
            for each run, the number of ids of its sample before it; and `offsets`, (n + 1,): sample i has the runs
            `offsets[i]` to `offsets[i + 1] - 1`.
        """
        if self.image_start_idx is None:
            return batch.image_at, batch.image_offsets
        return np.full(batch.records, self.image_start_idx), np.arange(batch.records + 1)


class RowArrays(NamedTuple):
    """The per-position arrays of n rows, each (n, max_sequence_length); `hdf5_writer.schema` defines their meaning."""

    text_input_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.uint8]
    key_padding_mask: npt.NDArray[np.uint8]

    def part(self, start: int, stop: int) -> RowArrays:
        """Return views of rows `start` to `stop` - 1."""
        return RowArrays._make(array[start:stop] for array in self)


class Placements(NamedTuple):
    """Positions of n samples in rows, in ascending order of rows and positions; each array is (n,) int64.

    Attributes:
        row: row number, from 0.
        start: first position in the row.
        length: number of positions.
    """

    row: _Ints
    start: _Ints
    length: _Ints

    def part(self, row: int, start: int, stop: int) -> Placements:
        """Return the places of samples `start` to `stop` - 1, with row numbers relative to `row`."""
        return Placements(self.row[start:stop] - row, self.start[start:stop], self.length[start:stop])


def place_samples(lengths: _Ints, samples_per_row: _Ints) -> Placements:
    """Compute the places of samples that fill the rows in order.

    Args:
        lengths: (n,) int64, positions of each sample.
        samples_per_row: (rows,) int64, number of samples in each row; their sum is n.
    """
    row = np.repeat(np.arange(len(samples_per_row)), samples_per_row)
    before = np.cumsum(lengths) - lengths
    first = np.cumsum(samples_per_row) - samples_per_row
    return Placements(row, before - before[first][row], lengths)


def empty_rows(count: int, layout: RowLayout) -> RowArrays:
    """Return `count` rows of padding."""
    shape = (count, layout.max_sequence_length)
    return RowArrays(
        text_input_ids=np.full(shape, layout.pad_id, dtype=np.int32),
        labels=np.full(shape, layout.pad_id, dtype=np.int32),
        loss_mask=np.zeros(shape, dtype=np.uint8),
        key_padding_mask=np.ones(shape, dtype=np.uint8),
    )


def clear_rows(rows: RowArrays, layout: RowLayout) -> None:
    """Overwrite rows with padding."""
    rows.text_input_ids.fill(layout.pad_id)
    rows.labels.fill(layout.pad_id)
    rows.loss_mask.fill(0)
    rows.key_padding_mask.fill(1)


def write_rows(batch: SampleBatch, places: Placements, layout: RowLayout, rows: RowArrays) -> int:
    """Write samples into the first rows of `rows`, overwriting their content.

    Args:
        batch: samples returned by `hdf5_writer.fitting.fit_samples`.
        places: their places; every row up to the last one has a sample.
        layout: layout of the rows.
        rows: arrays with at least that number of rows.

    Returns:
        the largest number of positions used in any row.
    """
    if not len(places.row):
        return 0
    ends = places.start + places.length
    count, width = int(places.row[-1]) + 1, int(ends.max())
    offsets, last = batch.offsets[:-1], batch.offsets[1:] - 1
    run_at, run_offsets = layout.slot_runs(batch)
    # Scatter into rows with one extra position, so that the last token of a full row has a place.
    stride = width + 1
    # Target of each token: start of its sample + tokens before it + image slots before it.
    to = np.arange(len(batch.ids))
    if len(run_at):
        runs_upto = np.bincount(run_at + np.repeat(offsets, np.diff(run_offsets)), minlength=len(batch.ids)).cumsum()
        to += runs_upto * layout.num_patches
    base = places.row * stride + places.start - offsets - run_offsets[:-1] * layout.num_patches
    to += np.repeat(base, np.diff(batch.offsets))

    rows = rows.part(0, count)
    rows.text_input_ids[:, width:] = rows.labels[:, width:] = layout.pad_id
    rows.loss_mask[:, width:], rows.key_padding_mask[:, width:] = 0, 1

    # The loss of a token is one position before it. The first token of a row is never supervised.
    with_loss = np.zeros((count, stride), dtype=np.uint8)
    with_loss.reshape(-1)[to[batch.supervised] - 1] = 1
    rows.loss_mask[:, :width] = with_loss[:, :width]

    # The last token of a sample is only a label: it goes to the extra position, and its label is set afterwards.
    to[last] = places.row * stride + width
    sequences = np.full((count, stride), layout.pad_id, dtype=np.int32)
    sequences.reshape(-1)[to] = batch.ids
    sequences[:, width] = layout.pad_id
    rows.text_input_ids[:, :width] = sequences[:, :width]
    rows.labels[:, :width] = sequences[:, 1:]
    rows.labels[places.row, ends - 1] = batch.ids[last]

    used = np.zeros(count, dtype=np.int32)
    np.maximum.at(used, places.row, ends)
    rows.key_padding_mask[:, :width] = np.arange(width, dtype=np.int32) >= used[:, None]
    if layout.image_start_idx is not None:
        start = layout.image_start_idx
        text_only = np.diff(batch.image_offsets) == 0
        rows.key_padding_mask[places.row[text_only], start : start + layout.num_patches] = 1
    return width
