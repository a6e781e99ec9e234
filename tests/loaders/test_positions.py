"""Positions, segments and bounds against a loop over samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the loaders need torch")

from loaders.positions import position_ids, runs_of, segment_ids, sequence_bounds

rows_of_samples = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=6)


def tables(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum([0, *map(len, rows)]), np.array([length for row in rows for length in row], dtype=np.int32)


@pytest.mark.slow
@given(rows_of_samples, st.integers(0, 7))
def test_positions_and_segments_equal_those_of_a_loop_over_samples(rows: list[list[int]], spare: int) -> None:
    length = max(map(sum, rows)) + spare
    expected = np.zeros((2, len(rows), length), dtype=np.int32)
    for number, row in enumerate(rows):
        at = 0
        for segment, size in enumerate([*row, length - sum(row)], start=1):
            for position in range(size):
                expected[0, number, at] = position
                expected[1, number, at] = 0 if segment > len(row) else segment
                at += 1
    runs = runs_of(*tables(rows), length)
    for made, wanted in zip((position_ids(runs, length), segment_ids(runs, length)), expected, strict=True):
        assert made.dtype == np.int32
        assert made.tolist() == wanted.tolist()


@pytest.mark.slow
@given(rows_of_samples, st.integers(0, 7))
def test_bounds_split_the_flattened_batch_at_each_start_of_a_segment_or_row(rows: list[list[int]], spare: int) -> None:
    length = max(map(sum, rows)) + spare
    runs = runs_of(*tables(rows), length)
    segments = segment_ids(runs, length)
    begins = [
        number * length + at
        for number in range(len(rows))
        for at in range(length)
        if at == 0 or segments[number, at] != segments[number, at - 1]
    ]
    bounds, longest = sequence_bounds(runs)
    assert bounds.dtype == np.int32
    assert bounds.tolist() == [*begins, len(rows) * length]
    assert longest == max(np.diff(bounds))


def test_an_empty_batch_has_no_positions() -> None:
    runs = runs_of(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32), 8)
    assert segment_ids(runs, 8).shape == position_ids(runs, 8).shape == (0, 8)
    assert sequence_bounds(runs)[0].tolist() == [0]
