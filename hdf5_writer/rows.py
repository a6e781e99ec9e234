"""Ids → the fixed-length row: shift, image slots, padding, overflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.rejects import Reason, Rejected
from preprocess.samples import SampleBatch


@dataclass(frozen=True)
class RowLayout:
    """What is the same in every row of a dataset.

    Attributes:
        max_sequence_length: positions in a row, image slots included.
        num_patches: image slots in every row, text-only rows too.
        image_start_idx: position of the first slot.
        pad_id: what stands in slots and padding.
        truncate: cut what is too long; otherwise it is rejected.
    """

    max_sequence_length: int
    num_patches: int
    image_start_idx: int
    pad_id: int
    truncate: bool


class RowArrays(NamedTuple):
    """Arrays of n rows of one length; `hdf5_writer.schema` says what each means."""

    text_input_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.uint8]
    key_padding_mask: npt.NDArray[np.uint8]
    modality_lengths: npt.NDArray[np.int32]

    def part(self, start: int, stop: int) -> RowArrays:
        """Views of some rows."""
        return RowArrays._make(array[start:stop] for array in self)


class RowMeasures(NamedTuple):
    """What is known of n rows before they are written, each of shape (n,).

    Attributes:
        text_tokens: tokens of text among the row's positions.
        used: positions up to the last one attended, image slots included.
        supervised: labels with loss.
        rounds: answers of which a label is left.
        truncated: whether the record is longer than the row.
        text_only: whether it has no image.
    """

    text_tokens: npt.NDArray[np.int64]
    used: npt.NDArray[np.int64]
    supervised: npt.NDArray[np.int64]
    rounds: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]
    text_only: npt.NDArray[np.bool_]

    def part(self, start: int, stop: int) -> RowMeasures:
        """Some rows."""
        return RowMeasures._make(array[start:stop] for array in self)


def empty_rows(count: int, layout: RowLayout) -> RowArrays:
    """`count` rows of padding."""
    shape = (count, layout.max_sequence_length)
    return RowArrays(
        text_input_ids=np.full(shape, layout.pad_id, dtype=np.int32),
        labels=np.full(shape, layout.pad_id, dtype=np.int32),
        loss_mask=np.zeros(shape, dtype=np.uint8),
        key_padding_mask=np.ones(shape, dtype=np.uint8),
        modality_lengths=np.zeros(count, dtype=np.int32),
    )


def clear_rows(rows: RowArrays, layout: RowLayout) -> None:
    """Make rows of padding again of rows that were written."""
    rows.text_input_ids.fill(layout.pad_id)
    rows.labels.fill(layout.pad_id)
    rows.loss_mask.fill(0)
    rows.key_padding_mask.fill(1)
    rows.modality_lengths.fill(0)


def measure_rows(batch: SampleBatch, layout: RowLayout) -> tuple[RowMeasures, dict[int, Exception]]:
    """What the rows of a batch will be.

    Returns:
        facts, and what is wrong with those records that cannot be rows: `Rejected` with TOO_LONG, NOTHING_SUPERVISED
        or SUPERVISED_AT_DUMMY_IMAGE (a text-only row whose answer would directly follow a dummy slot, from which it
        would then have to be predicted); RuntimeError where an image stands elsewhere than `image_start_idx`, a fault
        of the program.
    """
    begins, ends = batch.begins[:-1], batch.begins[1:]
    # Positions of the shifted row: the last token is only a label.
    positions = ends - begins + layout.num_patches - 1
    used = np.minimum(positions, layout.max_sequence_length)
    last = used - layout.num_patches  # in ids: the last label that is kept
    kept_ends = begins + last + 1
    supervised = np.flatnonzero(batch.supervised)
    first = np.searchsorted(supervised, begins)
    count = np.searchsorted(supervised, kept_ends) - first
    # A span begins behind a token without loss, and where a record begins.
    begins_here = np.zeros(len(batch.ids) + 1, dtype=np.bool_)
    begins_here[begins] = True
    spans = supervised[begins_here[supervised] | ~batch.supervised[supervised - 1]]
    facts = RowMeasures(
        text_tokens=last,
        used=used,
        supervised=count,
        rounds=np.searchsorted(spans, kept_ends) - np.searchsorted(spans, begins),
        truncated=positions > layout.max_sequence_length,
        text_only=np.diff(batch.image_begins) == 0,
    )
    any_supervised = np.searchsorted(supervised, ends) > first
    answer_at = np.append(supervised, len(batch.ids))[first] - begins
    too_early = any_supervised & (answer_at < layout.image_start_idx + facts.text_only)
    first_image = np.append(batch.image_at, 0)[batch.image_begins[:-1]]
    misplaced = ~facts.text_only & (first_image != layout.image_start_idx)
    too_long = facts.truncated & (not layout.truncate)
    wrong = np.flatnonzero(misplaced | too_early | too_long | (count == 0)).tolist()

    def explain(row: int) -> Exception:
        start, length = layout.image_start_idx, layout.max_sequence_length
        if misplaced[row]:
            return RuntimeError(f"the image stands after {first_image[row]} tokens, but image_start_idx is {start}")
        if too_early[row]:
            return Rejected(
                Reason.SUPERVISED_AT_DUMMY_IMAGE,
                f"the answer begins at token {answer_at[row] + 1} of a text-only record, within or right behind the "
                f"first {start} tokens, after which the dummy image stands",
            )
        if too_long[row]:
            found = f"{positions[row]} positions, image included, expected at most max_sequence_length {length}"
            return Rejected(Reason.TOO_LONG, found)
        cut = f"the answer begins behind the {length} positions that are kept"
        return Rejected(Reason.NOTHING_SUPERVISED, cut if facts.truncated[row] else "no answer token")

    return facts, {row: explain(row) for row in wrong}


def write_rows(batch: SampleBatch, facts: RowMeasures, layout: RowLayout, rows: RowArrays) -> None:
    """Write a batch, of which nothing is wrong, as the first rows of `rows`; what stood there does not matter."""
    count = len(facts.used)
    start, slots = layout.image_start_idx, layout.num_patches
    ids, supervised, lengths = batch.ids, batch.supervised, facts.text_tokens + 1
    if facts.truncated.any():
        kept = np.arange(len(ids)) < np.repeat(batch.begins[:-1] + lengths, np.diff(batch.begins))
        ids, supervised = ids[kept], supervised[kept]
    begins = np.cumsum(lengths) - lengths
    # Full sequences, one token longer than what they need of the row.
    width = int(facts.used.max(initial=0))
    sequences = np.full((count, width + 1), layout.pad_id, dtype=np.int32)
    with_loss = np.zeros((count, width + 1), dtype=np.uint8)
    # Where each token goes, those before the image without its slots.
    places = np.arange(len(ids)) + np.repeat(np.arange(count) * (width + 1) + slots - begins, lengths)
    places[(begins[:, None] + np.arange(start)).reshape(-1)] -= slots
    sequences.reshape(-1)[places] = ids
    with_loss.reshape(-1)[places] = supervised

    rows = rows.part(0, count)
    rows.labels[:, :width] = sequences[:, 1:]
    rows.loss_mask[:, :width] = with_loss[:, 1:]
    sequences[np.arange(count), facts.used] = layout.pad_id  # the last token is only a label
    rows.text_input_ids[:, :width] = sequences[:, :-1]
    rows.key_padding_mask[:, :width] = np.arange(width, dtype=np.int32) >= facts.used.astype(np.int32)[:, None]
    rows.key_padding_mask[facts.text_only, start : start + slots] = 1
    rows.text_input_ids[:, width:] = rows.labels[:, width:] = layout.pad_id
    rows.loss_mask[:, width:], rows.key_padding_mask[:, width:] = 0, 1
    rows.modality_lengths[:] = np.where(facts.text_only, -facts.text_tokens, facts.used)
