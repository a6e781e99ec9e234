"""Orders, mixtures and groups, without reading any file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the loaders need torch")

from loaders.global_batches import ConsecutiveBatches
from loaders.grouping import ModalityBatches
from loaders.mixture import MixtureOrder
from loaders.row_order import BlockShuffle, SequentialOrder, keyed_permutation

block_sizes = st.lists(st.integers(1, 64), min_size=1, max_size=30)


def shuffled(sizes: list[int], *, first: int = 0, window: int = 4, seed: int = 0) -> BlockShuffle:
    starts = first + np.concatenate(([0], np.cumsum(sizes)[:-1]))
    return BlockShuffle(starts.tolist(), sizes, window=window, seed=seed)


@pytest.mark.slow
@given(sizes=block_sizes, window=st.integers(1, 40), seed=st.integers(0, 2**63), epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation(sizes: list[int], window: int, seed: int, epoch: int) -> None:
    order = shuffled(sizes, window=window, seed=seed)
    assert sorted(order.take(epoch, 0, order.rows)) == list(range(sum(sizes)))


@pytest.mark.slow
@given(sizes=block_sizes, data=st.data())
def test_any_slice_equals_that_part_of_the_epoch(sizes: list[int], data: st.DataObject) -> None:
    rows = sum(sizes)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    whole = shuffled(sizes).take(3, 0, rows)
    assert shuffled(sizes).take(3, start, stop).tolist() == whole[start:stop].tolist()


def test_seed_and_epoch_change_the_order() -> None:
    orders = [shuffled([64] * 20, seed=seed).take(epoch, 0, 1280).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_rows_of_a_window_come_from_all_its_blocks_and_are_mixed() -> None:
    rows = shuffled([64] * 20, window=4).take(0, 0, 1280).reshape(5, 256)
    for window in rows:
        assert len(set(window // 64)) == 4
    # and are mixed: rows of one block are not consecutive
    assert (np.diff(rows[0] // 64) != 0).mean() > 0.5


def test_every_row_is_about_equally_likely_at_every_position() -> None:
    means = np.mean([shuffled([64] * 8, window=2, seed=seed).take(0, 0, 512) for seed in range(300)], axis=0)
    assert abs(means - 255.5).max() < 5 * 148 / 300**0.5  # five standard deviations of the mean


def test_the_order_of_a_seed_never_changes() -> None:
    """A state saved years ago must still resume correctly, so these numbers must not depend on any library."""
    assert keyed_permutation(8, "window", 0, 0, 0).tolist() == [0, 1, 3, 5, 6, 4, 7, 2]
    assert shuffled([2, 3, 1], window=2).take(0, 0, 6).tolist() == [5, 2, 4, 3, 0, 1]


@pytest.mark.slow
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=5),
    epoch=st.integers(0, 10**6),
    data=st.data(),
)
@settings(deadline=None)
def test_a_mixture_can_be_resumed_at_any_position(weights: list[float], epoch: int, data: st.DataObject) -> None:
    orders = [shuffled([7, 13 + i], first=1000 * i, seed=i) for i in range(len(weights))]
    mixture = MixtureOrder(orders, weights)
    whole = mixture.take(epoch, 0, mixture.rows)
    start = data.draw(st.integers(0, mixture.rows))
    stop = data.draw(st.integers(start, mixture.rows))
    assert MixtureOrder(orders, weights).take(epoch, start, stop).tolist() == whole[start:stop].tolist()


@pytest.mark.slow
@given(weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=6), rows=st.integers(1, 3000))
@settings(deadline=None)
def test_every_prefix_of_a_mixture_has_the_share_of_each_source(weights: list[float], rows: int) -> None:
    orders = [SequentialOrder(10_000 * i, 3000) for i in range(len(weights))]
    taken = MixtureOrder(orders, weights).take(0, 0, rows) // 10_000
    for source, weight in enumerate(weights):
        assert abs((taken == source).sum() - rows * weight / sum(weights)) <= len(weights)


def test_a_small_source_repeats_and_loses_no_row() -> None:
    small, large = shuffled([10], first=0), shuffled([64] * 3, first=1000)
    mixture = MixtureOrder([small, large], [1, 1])
    taken = np.concatenate([mixture.take(epoch, 0, mixture.rows) for epoch in range(2)])
    passes = taken[taken < 1000]
    assert len(passes) == mixture.rows
    for start in range(0, len(passes) - 10, 10):
        assert sorted(passes[start : start + 10]) == list(range(10))
    assert passes[:10].tolist() != passes[10:20].tolist()


@pytest.mark.parametrize("weights", [[1, 0], [1, -2], [1, float("nan")], [1, float("inf")], [1, 1e-12], [1e-12, 1]])
def test_weights_with_which_a_source_is_never_drawn_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        MixtureOrder([SequentialOrder(0, 5), SequentialOrder(5, 5)], weights)


@given(rows=st.integers(1, 200), size=st.integers(1, 50))
def test_without_drop_last_every_row_counts_once(rows: int, size: int) -> None:
    batches = ConsecutiveBatches(SequentialOrder(0, rows), size, drop_last=False)
    counted = []
    for number in range(batches.count(0)):
        batch = batches.batch(0, number)
        assert len(batch.rows) == size
        counted += batch.rows[: size - batch.repeats].tolist()
    assert counted == list(range(rows))


lengths_strategy = st.lists(st.integers(1, 2000).flatmap(lambda n: st.sampled_from([n, -n])), min_size=1, max_size=400)


@pytest.mark.slow
@given(lengths=lengths_strategy, size=st.integers(1, 16), shuffle=st.booleans(), drop_last=st.booleans())
@settings(deadline=None)
def test_groups_have_one_modality_and_no_row_is_lost(
    lengths: list[int], size: int, shuffle: bool, drop_last: bool
) -> None:
    array = np.array(lengths, dtype=np.int32)
    order = shuffled([len(lengths)])
    if drop_last and any(0 < (array * sign > 0).sum() < size for sign in (1, -1)):
        return  # refused; see tests/loaders/test_dataloader.py
    batches = ModalityBatches(order, array, size, window_rows=128, drop_last=drop_last, shuffle=shuffle, seed=0)
    counted = []
    for number in range(batches.count(5)):
        batch = batches.batch(5, number)
        assert len(set(array[batch.rows] > 0)) == 1
        counted += batch.rows[: size - batch.repeats].tolist()
    assert len(set(counted)) == len(counted)
    expected = sum(n // size * size if drop_last else n for n in ((array > 0).sum(), (array < 0).sum()))
    assert len(counted) == expected


def test_groups_have_similar_lengths_and_are_shuffled() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 2000, 4096).astype(np.int32) * np.where(np.arange(4096) % 3 == 0, -1, 1)
    order = shuffled([64] * 64, window=16)
    batches = ModalityBatches(
        order, lengths.astype(np.int32), 16, window_rows=1024, drop_last=True, shuffle=True, seed=0
    )
    all_batches = [batches.batch(0, number).rows for number in range(batches.count(0))]
    spread = np.mean([np.ptp(np.abs(lengths[rows])) for rows in all_batches])
    plain = np.mean([np.ptp(np.abs(lengths[order.take(0, i, i + 16)])) for i in range(0, 4096, 16)])
    assert spread < plain / 10
    kinds = [bool(lengths[rows[0]] > 0) for rows in all_batches]
    assert sum(a != b for a, b in itertools.pairwise(kinds)) > len(kinds) / 4
    longest = [int(np.abs(lengths[rows]).max()) for rows in all_batches]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)
