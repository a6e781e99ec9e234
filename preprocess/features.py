"""Ids → the fixed-length row: shift, image slots, padding, overflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.rejects import Reason, Rejected
from preprocess.tokens import TokenSequence


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


class RowFacts(NamedTuple):
    """Counts of one row: tokens of text among the row's positions, supervised labels, and whether it was cut."""

    text_tokens: int
    supervised: int
    truncated: bool


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


def write_row(sequence: TokenSequence, layout: RowLayout, rows: RowArrays, index: int) -> RowFacts:
    """Write one record as row `index` of `rows`, which must hold padding there.

    Nothing is written when the record is rejected.

    Raises:
        Rejected: TOO_LONG, NOTHING_SUPERVISED, or SUPERVISED_AT_DUMMY_IMAGE (a text-only row whose answer would
            directly follow a dummy slot, from which it would then have to be predicted).
        RuntimeError: the image stands elsewhere than `image_start_idx`: a fault of the program.
    """
    ids, spans, image_at = sequence
    start, slots, length = layout.image_start_idx, layout.num_patches, layout.max_sequence_length
    text_only = image_at is None
    if image_at is not None and image_at != start:
        raise RuntimeError(f"the image stands after {image_at} tokens, but image_start_idx is {start}")
    if spans and spans[0][0] < start + text_only:
        raise Rejected(
            Reason.SUPERVISED_AT_DUMMY_IMAGE,
            f"the answer begins at token {spans[0][0] + 1} of a text-only record, within or right behind the "
            f"first {start} tokens, after which the dummy image stands",
        )
    # Positions of the shifted row: the last token is only a label.
    used = len(ids) + slots - 1
    truncated = used > length
    if truncated:
        if not layout.truncate:
            raise Rejected(
                Reason.TOO_LONG, f"{used} positions, image included, expected at most max_sequence_length {length}"
            )
        used = length
    last = used - slots  # in ids: the last label that is kept
    kept = [(a + slots - 1, min(b, last + 1) + slots - 1) for a, b in spans if a <= last]
    if not kept:
        found = f"the answer begins behind the {length} positions that are kept" if truncated else "no answer token"
        raise Rejected(Reason.NOTHING_SUPERVISED, found)

    row = rows.text_input_ids[index]
    row[:start] = ids[:start]
    row[start + slots : used] = ids[start:last]
    row = rows.labels[index]
    if start:
        row[: start - 1] = ids[1:start]
    row[start + slots - 1 : used] = ids[start : last + 1]
    mask = rows.loss_mask[index]
    supervised = 0
    for a, b in kept:
        mask[a:b] = 1
        supervised += b - a
    mask = rows.key_padding_mask[index]
    mask[:used] = 0
    if text_only:
        mask[start : start + slots] = 1
    rows.modality_lengths[index] = -last if text_only else used
    return RowFacts(last, supervised, truncated)
