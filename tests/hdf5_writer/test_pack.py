"""Packing: samples per row compared with a simple best-fit-decreasing reference, images per row, order of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdf5_writer.planning.pack import best_fit_decreasing, pack_samples


def plain_best_fit_decreasing(lengths: list[int], images: list[int], capacity: int, most: int | None) -> list[int]:
    """Row of each sample, found by checking every row for every sample."""
    room: list[int] = []
    held: list[int] = []
    rows = [0] * len(lengths)
    for sample in sorted(range(len(lengths)), key=lambda sample: (-lengths[sample], sample)):
        fitting = [
            row
            for row in range(len(room))
            if room[row] >= lengths[sample] and (most is None or held[row] + images[sample] <= most)
        ]
        row = min(fitting, key=lambda row: (room[row], row)) if fitting else len(room)
        if not fitting:
            room.append(capacity)
            held.append(0)
        room[row] -= lengths[sample]
        held[row] += images[sample]
        rows[sample] = row
    return rows


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[int], list[int], int, int | None]:
    capacity = draw(st.integers(1, 60))
    most = draw(st.one_of(st.none(), st.integers(1, 5)))
    samples = st.tuples(st.integers(1, capacity), st.integers(0, 5 if most is None else most))
    drawn = draw(st.lists(samples, max_size=60))
    return [length for length, _ in drawn], [images for _, images in drawn], capacity, most


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(windows())
def test_rows_are_those_of_a_plain_best_fit_decreasing(window: tuple[list[int], list[int], int, int | None]) -> None:
    assert best_fit_decreasing(*window) == plain_best_fit_decreasing(*window)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(windows(), st.one_of(st.none(), st.tuples(st.integers(0, 99), st.integers(0, 9), st.integers(0, 9))))
def test_every_sample_is_in_exactly_one_row_that_fits_it(
    window: tuple[list[int], list[int], int, int | None], key: tuple[int, int, int] | None
) -> None:
    lengths, images, capacity, most = window
    packed = pack_samples(np.array(lengths, np.int64), np.array(images, np.int64), capacity, most, key)
    assert sorted(packed.order.tolist()) == list(range(len(lengths)))
    rows = np.split(packed.order, np.cumsum(packed.samples_per_row)[:-1]) if lengths else []
    for row in rows:
        assert row.tolist() == sorted(row.tolist()), "in record order"
        assert sum(lengths[sample] for sample in row) <= capacity
        assert most is None or sum(images[sample] for sample in row) <= most
    if key is None:
        assert [row[0] for row in rows] == sorted(row[0] for row in rows), "rows in the order of their first records"
    together = best_fit_decreasing(lengths, images, capacity, most)
    assert {tuple(row.tolist()) for row in rows} == {
        tuple(sample for sample, found in enumerate(together) if found == row) for row in set(together)
    }


def test_the_order_of_rows_is_keyed_and_mixes_them() -> None:
    lengths, images = np.full(1000, 7), np.zeros(1000, np.int64)
    orders = [pack_samples(lengths, images, 7, None, key).order.tolist() for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0))]
    assert len({tuple(order) for order in orders}) == 3
    for order in orders:
        assert sorted(order) == list(range(1000))
        assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    assert orders[0] == pack_samples(lengths, images, 7, None, (0, 0, 0)).order.tolist()


def like_llava(count: int) -> np.ndarray:
    """Lengths in positions like those of LLaVA's instruction data: half with an image, 767 on average."""
    random = np.random.default_rng(5)
    text = np.clip(random.lognormal(5.6, 0.75, count), 40, 2000).astype(np.int64)
    return np.minimum(text + 576 * (random.random(count) < 0.66), 2048)


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [2048, 4096, 8192])
def test_packing_by_windows_fills_rows_as_well_as_packing_all_samples(capacity: int) -> None:
    lengths = like_llava(12_000)
    none = [0] * len(lengths)
    together = max(best_fit_decreasing(lengths.tolist(), none, capacity, None)) + 1
    windows = [lengths[start : start + 2000] for start in range(0, len(lengths), 2000)]
    rows = sum(
        len(pack_samples(some, np.zeros(len(some), np.int64), capacity, None, None).samples_per_row) for some in windows
    )
    plain = sum(max(plain_rows(some.tolist(), capacity)) + 1 for some in windows)
    assert rows <= 1.005 * plain
    assert rows <= 1.01 * together


def plain_rows(lengths: list[int], capacity: int) -> list[int]:
    return plain_best_fit_decreasing(lengths, [0] * len(lengths), capacity, None)
