"""Rows of arbitrary samples: each array is compared, position by position, with the rules of docs/rows.md."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_samples import fixed_layouts, free_layouts, samples_for
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_rows import fitted, row_of

from hdf5_writer.fitting import fit_samples
from hdf5_writer.rows import empty_rows, place_samples, write_rows
from preprocess.samples import batch_of, join_batches


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_every_position_of_every_row_matches_the_tables(data: st.DataObject) -> None:
    layout = data.draw(st.one_of(fixed_layouts(), free_layouts()))
    samples = data.draw(st.lists(samples_for(layout), min_size=1, max_size=8))
    batch, measures, failed = fit_samples(join_batches([batch_of(sample) for sample in samples]), layout)
    kept = [sample for sample in samples if fitted(sample, layout) is not None]
    assert len(samples) - len(kept) == len(failed)
    lengths = measures.length.tolist()

    # Random rows of consecutive samples; fixed rows hold one.
    per_row: list[int] = []
    room = 0
    for length in lengths:
        if per_row and layout.image_start_idx is None and length <= room and data.draw(st.booleans()):
            per_row[-1] += 1
            room -= length
        else:
            per_row.append(1)
            room = layout.max_sequence_length - length
    # Previous contents of the rows are overwritten; rows after the last one are not changed.
    rows = empty_rows(len(per_row) + 2, layout)
    for array in rows:
        array.fill(99)
    width = write_rows(batch, place_samples(measures.length, np.array(per_row, dtype=np.int64)), layout, rows)
    at = 0
    used = []
    for row, count in enumerate(per_row):
        expected = row_of(kept[at : at + count], layout)
        assert {name: array[row].tolist() for name, array in rows._asdict().items()} == expected
        used.append(sum(lengths[at : at + count]))
        at += count
    assert width == max(used, default=0)
    for array in rows:
        assert (array[len(per_row) :] == 99).all()
