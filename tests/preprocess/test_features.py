"""The row of any sequence: what DESIGN's table says of each array, checked position by position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.features import RowLayout, empty_rows, write_row
from preprocess.rejects import Reason, Rejected
from preprocess.tokens import TokenSequence

PAD = 7
LAYOUT = RowLayout(max_sequence_length=12, num_patches=4, image_start_idx=2, pad_id=PAD, truncate=True)


def sequence(ids: list[int], spans: list[tuple[int, int]], image_at: int | None) -> TokenSequence:
    return TokenSequence(np.array(ids, dtype=np.int32), spans, image_at)


@st.composite
def cases(draw: st.DrawFn) -> tuple[TokenSequence, RowLayout]:
    start = draw(st.integers(0, 4))
    slots = draw(st.integers(1, 5))
    length = draw(st.integers(start + slots + 1, start + slots + 12))
    with_image = draw(st.booleans())
    ids = draw(st.lists(st.integers(0, 50), min_size=start + 2, max_size=start + 20))
    first = draw(st.integers(start + (not with_image), len(ids) - 1))
    flags = [False] * first + [True, *draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))]
    flags = flags[: len(ids)]
    edges = np.flatnonzero(np.diff(np.array([0, *flags, 0], dtype=np.int8)))
    spans = [(int(a), int(b)) for a, b in zip(edges[0::2], edges[1::2], strict=True)]
    return sequence(ids, spans, start if with_image else None), RowLayout(length, slots, start, PAD, truncate=True)


@given(case=cases())
def test_every_position_of_a_row_is_what_the_table_says(case: tuple[TokenSequence, RowLayout]) -> None:
    tokens, layout = case
    start, slots, length = layout.image_start_idx, layout.num_patches, layout.max_sequence_length
    text_only = tokens.image_at is None
    # The full sequence with its slots, as lists.
    ids = tokens.ids.tolist()
    full = ids[:start] + [PAD] * slots + ids[start:]
    supervised = {i + slots for a, b in tokens.supervised for i in range(a, b)}
    rows = empty_rows(3, layout)
    used = min(len(full) - 1, length)
    expected_mask = [int(t + 1 in supervised) for t in range(used)] + [0] * (length - used)
    if not any(expected_mask):
        with pytest.raises(Rejected) as rejected:
            write_row(tokens, layout, rows, 1)
        assert rejected.value.reason is Reason.NOTHING_SUPERVISED
        facts = None
    else:
        facts = write_row(tokens, layout, rows, 1)
        padding = [PAD] * (length - used)
        hidden = [int(text_only and start <= t < start + slots) for t in range(used)] + [1] * (length - used)
        assert rows.text_input_ids[1].tolist() == full[:used] + padding
        assert rows.labels[1].tolist() == full[1 : used + 1] + padding
        assert rows.loss_mask[1].tolist() == expected_mask
        assert rows.key_padding_mask[1].tolist() == hidden
        assert rows.modality_lengths[1] == (hidden.count(0) if not text_only else -hidden.count(0))
        assert facts == (used - slots, sum(expected_mask), len(full) - 1 > length)
    # Nothing else was touched, and nothing at all where the record was rejected.
    untouched = empty_rows(3, layout)
    for found, blank in zip(rows, untouched, strict=True):
        others = [0, 2] if facts is not None else [0, 1, 2]
        assert np.array_equal(found[others], blank[others])


def test_truncation_never_cuts_image_slots_and_keeps_the_last_label() -> None:
    rows = empty_rows(1, LAYOUT)
    ids = [1, 2, *range(10, 30)]
    facts = write_row(sequence(ids, [(2, 22)], 2), LAYOUT, rows, 0)
    assert facts.truncated
    assert rows.text_input_ids[0].tolist() == [1, 2, PAD, PAD, PAD, PAD, 10, 11, 12, 13, 14, 15]
    assert rows.labels[0].tolist() == [2, PAD, PAD, PAD, PAD, 10, 11, 12, 13, 14, 15, 16]


def test_reject_instead_of_truncate() -> None:
    layout = RowLayout(12, 4, 2, PAD, truncate=False)
    exactly = [1, 2, *range(10, 17)]
    write_row(sequence(exactly, [(2, 9)], 2), layout, empty_rows(1, layout), 0)
    with pytest.raises(Rejected) as rejected:
        write_row(sequence([*exactly, 17], [(2, 10)], 2), layout, empty_rows(1, layout), 0)
    assert rejected.value.reason is Reason.TOO_LONG


def test_a_text_only_answer_right_behind_the_dummy_image_is_rejected() -> None:
    for spans in ([(2, 5)], [(1, 5)]):
        with pytest.raises(Rejected) as rejected:
            write_row(sequence([1, 2, 3, 4, 5], spans, None), LAYOUT, empty_rows(1, LAYOUT), 0)
        assert rejected.value.reason is Reason.SUPERVISED_AT_DUMMY_IMAGE


def test_an_image_at_another_place_is_a_fault_of_the_program() -> None:
    with pytest.raises(RuntimeError, match="image_start_idx is 2"):
        write_row(sequence([1, 2, 3, 4], [(3, 4)], 3), LAYOUT, empty_rows(1, LAYOUT), 0)
