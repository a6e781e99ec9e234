"""The row of any sequence: what DESIGN's table says of each array, checked position by position."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdf5_writer.rows import RowArrays, RowLayout, RowMeasures, empty_rows, measure_rows, write_rows
from preprocess.rejects import Reason, Rejected
from preprocess.samples import Sample, batch_of, join_batches

PAD = 7
LAYOUT = RowLayout(max_sequence_length=12, num_patches=4, image_start_idx=2, pad_id=PAD, truncate=True)


def sequence(ids: list[int], spans: list[tuple[int, int]], image_at: int | None) -> Sample:
    return Sample(np.array(ids, dtype=np.int32), spans, () if image_at is None else (image_at,))


def write(tokens: Sample, layout: RowLayout, rows: RowArrays, index: int) -> RowMeasures:
    """One row; a record that cannot be one raises."""
    batch = batch_of(tokens)
    facts, failed = measure_rows(batch, layout)
    if failed:
        raise failed[0]
    write_rows(batch, facts, layout, rows.part(index, index + 1))
    return facts


@st.composite
def layouts(draw: st.DrawFn) -> RowLayout:
    start, slots = draw(st.integers(0, 4)), draw(st.integers(1, 5))
    length = draw(st.integers(start + slots + 1, start + slots + 12))
    return RowLayout(length, slots, start, draw(st.sampled_from([PAD, 0])), truncate=True)


@st.composite
def sequences(draw: st.DrawFn, layout: RowLayout) -> Sample:
    start = layout.image_start_idx
    with_image = draw(st.booleans())
    ids = draw(st.lists(st.integers(0, 50), min_size=start + 2, max_size=start + 20))
    first = draw(st.integers(start + (not with_image), len(ids) - 1))
    flags = [False] * first + [True, *draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))]
    flags = flags[: len(ids)]
    edges = np.flatnonzero(np.diff(np.array([0, *flags, 0], dtype=np.int8)))
    spans = [(int(a), int(b)) for a, b in zip(edges[0::2], edges[1::2], strict=True)]
    return sequence(ids, spans, start if with_image else None)


@settings(deadline=None)
@given(data=st.data())
def test_every_position_of_every_row_is_what_the_table_says(data: st.DataObject) -> None:
    layout = data.draw(layouts())
    tokens = data.draw(st.lists(sequences(layout), min_size=1, max_size=6))
    batch = join_batches([batch_of(found) for found in tokens])
    facts, failed = measure_rows(batch, layout)
    expected = [row_of(found, layout) for found in tokens]
    assert {row for row, found in enumerate(expected) if not any(found["loss_mask"])} == set(failed)
    for error in failed.values():
        assert isinstance(error, Rejected)
        assert error.reason is Reason.NOTHING_SUPERVISED
    batch = batch.without(list(failed))
    expected = [found for row, found in enumerate(expected) if row not in failed]
    facts, failed = measure_rows(batch, layout)
    assert not failed
    # Whatever stood in the rows before; those behind the batch are left alone.
    rows = empty_rows(len(expected) + 2, layout)
    for array in rows:
        array.fill(99)
    write_rows(batch, facts, layout, rows)
    for row, wanted in enumerate(expected):
        assert {name: array[row].tolist() for name, array in rows._asdict().items()} == wanted
    for array in rows:
        assert (array[len(expected) :] == 99).all()
    assert facts.supervised.tolist() == [sum(wanted["loss_mask"]) for wanted in expected]
    assert facts.text_only.tolist() == [wanted["modality_lengths"] < 0 for wanted in expected]
    masks = [[0, *wanted["loss_mask"]] for wanted in expected]
    assert facts.rounds.tolist() == [sum(b > a for a, b in itertools.pairwise(mask)) for mask in masks]


def row_of(tokens: Sample, layout: RowLayout) -> dict[str, Any]:
    """The row by the table, with lists: the full sequence with its slots, then the shift."""
    start, slots, length, pad = layout.image_start_idx, layout.num_patches, layout.max_sequence_length, layout.pad_id
    text_only = not tokens.image_at
    ids = tokens.ids.tolist()
    full = ids[:start] + [pad] * slots + ids[start:]
    supervised = {i + slots * (i >= start) for a, b in tokens.supervised for i in range(a, b)}
    used = min(len(full) - 1, length)
    padding = [pad] * (length - used)
    hidden = [int(text_only and start <= t < start + slots) for t in range(used)] + [1] * (length - used)
    return {
        "text_input_ids": full[:used] + padding,
        "labels": full[1 : used + 1] + padding,
        "loss_mask": [int(t + 1 in supervised) for t in range(used)] + [0] * (length - used),
        "key_padding_mask": hidden,
        "modality_lengths": -hidden.count(0) if text_only else hidden.count(0),
    }


def test_truncation_never_cuts_image_slots_and_keeps_the_last_label() -> None:
    rows = empty_rows(1, LAYOUT)
    ids = [1, 2, *range(10, 30)]
    facts = write(sequence(ids, [(2, 22)], 2), LAYOUT, rows, 0)
    assert facts.truncated.all()
    assert rows.text_input_ids[0].tolist() == [1, 2, PAD, PAD, PAD, PAD, 10, 11, 12, 13, 14, 15]
    assert rows.labels[0].tolist() == [2, PAD, PAD, PAD, PAD, 10, 11, 12, 13, 14, 15, 16]


def test_reject_instead_of_truncate() -> None:
    layout = RowLayout(12, 4, 2, PAD, truncate=False)
    exactly = [1, 2, *range(10, 17)]
    write(sequence(exactly, [(2, 9)], 2), layout, empty_rows(1, layout), 0)
    with pytest.raises(Rejected) as rejected:
        write(sequence([*exactly, 17], [(2, 10)], 2), layout, empty_rows(1, layout), 0)
    assert rejected.value.reason is Reason.TOO_LONG


def test_a_text_only_answer_right_behind_the_dummy_image_is_rejected() -> None:
    for spans in ([(2, 5)], [(1, 5)]):
        with pytest.raises(Rejected) as rejected:
            write(sequence([1, 2, 3, 4, 5], spans, None), LAYOUT, empty_rows(1, LAYOUT), 0)
        assert rejected.value.reason is Reason.SUPERVISED_AT_DUMMY_IMAGE


def test_an_image_at_another_place_is_a_fault_of_the_program() -> None:
    with pytest.raises(RuntimeError, match="image_start_idx is 2"):
        write(sequence([1, 2, 3, 4], [(3, 4)], 3), LAYOUT, empty_rows(1, LAYOUT), 0)
