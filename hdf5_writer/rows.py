"""Samples → the arrays of fixed-length rows: shift, image slots, padding. One writer for all kinds of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.samples import SampleBatch

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowLayout:
    """What is the same in every row of a dataset.

    Attributes:
        max_sequence_length: positions in a row, image slots included.
        num_patches: slots of an image.
        image_start_idx: in fixed rows, the position of the first slot: every row has the slots there, text-only rows
            too. None in free rows, whose images stand where the text has them.
        pad_id: what stands in slots and padding.
        truncate: cut what is too long; otherwise it is rejected.
    """

    max_sequence_length: int
    num_patches: int
    image_start_idx: int | None
    pad_id: int
    truncate: bool

    def slot_runs(self, batch: SampleBatch) -> tuple[_Ints, _Ints]:
        """Where the runs of image slots stand, the dummy ones of fixed text-only rows among them.

        Returns:
            how many ids of its sample stand before each run, and `begins` of shape (n + 1,): sample i has the runs
            `begins[i]` to `begins[i + 1]`.
        """
        if self.image_start_idx is None:
            return batch.image_at, batch.image_begins
        return np.full(batch.records, self.image_start_idx), np.arange(batch.records + 1)


class RowArrays(NamedTuple):
    """The positions of n rows, each (n, max_sequence_length); `hdf5_writer.schema` says what each array means."""

    text_input_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.uint8]
    key_padding_mask: npt.NDArray[np.uint8]

    def part(self, start: int, stop: int) -> RowArrays:
        """Views of some rows."""
        return RowArrays._make(array[start:stop] for array in self)


class Places(NamedTuple):
    """Where n samples stand, each array of shape (n,), int64: one behind the other in ascending rows.

    Attributes:
        row: of each sample, counted from 0.
        start: the first position in that row.
        length: positions.
    """

    row: _Ints
    start: _Ints
    length: _Ints

    def part(self, row: int, start: int, stop: int) -> Places:
        """Samples `start` to `stop`, in rows counted from `row`."""
        return Places(self.row[start:stop] - row, self.start[start:stop], self.length[start:stop])


def place_samples(lengths: _Ints, samples_per_row: _Ints) -> Places:
    """The places of samples that fill rows one behind the other.

    Args:
        lengths: positions of each sample, (n,).
        samples_per_row: how many of them each row takes; they add up to n.
    """
    row = np.repeat(np.arange(len(samples_per_row)), samples_per_row)
    before = np.cumsum(lengths) - lengths
    first = np.cumsum(samples_per_row) - samples_per_row
    return Places(row, before - before[first][row], lengths)


def empty_rows(count: int, layout: RowLayout) -> RowArrays:
    """`count` rows of padding."""
    shape = (count, layout.max_sequence_length)
    return RowArrays(
        text_input_ids=np.full(shape, layout.pad_id, dtype=np.int32),
        labels=np.full(shape, layout.pad_id, dtype=np.int32),
        loss_mask=np.zeros(shape, dtype=np.uint8),
        key_padding_mask=np.ones(shape, dtype=np.uint8),
    )


def clear_rows(rows: RowArrays, layout: RowLayout) -> None:
    """Make rows of padding again of rows that were written."""
    rows.text_input_ids.fill(layout.pad_id)
    rows.labels.fill(layout.pad_id)
    rows.loss_mask.fill(0)
    rows.key_padding_mask.fill(1)


def write_rows(batch: SampleBatch, places: Places, layout: RowLayout, rows: RowArrays) -> int:
    """Write samples as the first rows of `rows`; what stood there does not matter.

    Args:
        batch: samples as `hdf5_writer.fitting.fit_samples` leaves them.
        places: of the samples; no row is left out, so that the last one says how many there are.
        layout: of the rows.
        rows: at least as many.

    Returns:
        the width: no row uses more positions.
    """
    if not len(places.row):
        return 0
    ends = places.start + places.length
    count, width = int(places.row[-1]) + 1, int(ends.max())
    begins, last = batch.begins[:-1], batch.begins[1:] - 1
    run_at, run_begins = layout.slot_runs(batch)
    # Rows of one position more than they need, in which no token is in the way of another.
    stride = width + 1
    # Where each token goes: behind its sample's start, the tokens before it and the slots before it.
    to = np.arange(len(batch.ids))
    if len(run_at):
        runs_upto = np.bincount(run_at + np.repeat(begins, np.diff(run_begins)), minlength=len(batch.ids)).cumsum()
        to += runs_upto * layout.num_patches
    base = places.row * stride + places.start - begins - run_begins[:-1] * layout.num_patches
    to += np.repeat(base, np.diff(batch.begins))

    rows = rows.part(0, count)
    rows.text_input_ids[:, width:] = rows.labels[:, width:] = layout.pad_id
    rows.loss_mask[:, width:], rows.key_padding_mask[:, width:] = 0, 1

    # The loss of a token stands one position before it. The first token of a row is never supervised.
    with_loss = np.zeros((count, stride), dtype=np.uint8)
    with_loss.reshape(-1)[to[batch.supervised] - 1] = 1
    rows.loss_mask[:, :width] = with_loss[:, :width]

    # The last token of a sample is only a label: it goes where no input stands, and its label is set afterwards.
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
        text_only = np.diff(batch.image_begins) == 0
        rows.key_padding_mask[places.row[text_only], start : start + layout.num_patches] = 1
    return width
