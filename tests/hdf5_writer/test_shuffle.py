from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdf5_writer.planning.shuffle import permuted


@pytest.mark.slow
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1))
def test_the_shuffle_is_a_permutation(n: int, seed: int) -> None:
    assert sorted(permuted(0, n, n, seed).tolist()) == list(range(n))


@pytest.mark.slow
@given(n=st.integers(1, 2**62 - 1), seed=st.integers(0, 2**63 - 1), data=st.data())
def test_any_slice_equals_that_part_of_the_whole_permutation(n: int, seed: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, n - 1))
    stop = min(n, start + 20)
    found = permuted(start, stop, n, seed)
    assert found.tolist() == [int(permuted(i, i + 1, n, seed)[0]) for i in range(start, stop)]
    assert ((found >= 0) & (found < n)).all()


def test_the_order_equals_stored_values() -> None:
    assert permuted(0, 10, 10, 0).tolist() == [5, 3, 4, 0, 2, 7, 1, 9, 6, 8]
    end = permuted(999_996, 1_000_000, 1_000_000, 42).tolist()
    assert end == [620104, 655559, 348318, 380471]


@pytest.mark.slow
def test_positions_are_uniformly_distributed() -> None:
    counts = np.zeros((8, 8))
    for seed in range(4000):
        counts[np.arange(8), permuted(0, 8, 8, seed)] += 1
    # 500 expected, standard deviation about 21.
    assert abs(counts - 500).max() < 6 * 21


def test_adjacent_records_are_separated() -> None:
    order = permuted(0, 10_000, 10_000, 0)
    assert (np.abs(np.diff(order)) == 1).sum() < 20
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05
