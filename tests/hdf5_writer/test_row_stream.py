"""Windows of samples that are packed together do not depend on how the samples are batched."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_samples import samples_for
from hypothesis import given, settings
from hypothesis import strategies as st

from hdf5_writer.fitting import fit_samples
from hdf5_writer.planning.pack import Packed, pack_samples
from hdf5_writer.row_stream import RowStream, Samples, join_samples
from hdf5_writer.rows import RowLayout
from preprocess.samples import batch_of, join_batches

LAYOUT = RowLayout(40, 3, None, 0, truncate=True)


@st.composite
def drawn(draw: st.DrawFn) -> Samples:
    """Samples that fit; `line` is their number, from 0."""
    samples = draw(st.lists(samples_for(LAYOUT), min_size=1, max_size=20))
    batch, measures, _ = fit_samples(join_batches([batch_of(sample) for sample in samples]), LAYOUT)
    number = np.arange(batch.records)
    return Samples(batch, measures, number * 0, number, [f"{image}.png" for image in range(len(batch.image_at))])


def same(one: Samples, other: Samples) -> bool:
    arrays = [[*found.batch, *found.measures, found.source_file, found.source_line] for found in (one, other)]
    return one.image_paths == other.image_paths and all(map(np.array_equal, *arrays))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.data(), drawn(), st.integers(1, 200))
def test_a_window_ends_with_the_sample_that_reaches_the_position_limit(
    data: st.DataObject, samples: Samples, window_positions: int
) -> None:
    lengths = samples.measures.length.tolist()
    windows: list[list[int]] = []
    rows: list[Samples] = []
    counts: list[int] = []

    def pack(positions: np.ndarray, images: np.ndarray, window: int) -> Packed:
        assert window == len(windows)
        windows.append(positions.tolist())
        return pack_samples(positions, images, LAYOUT.max_sequence_length, None, (0, 0, window))

    def take(some: Samples, per_row: np.ndarray) -> None:
        rows.append(some)
        counts.extend(per_row.tolist())

    stream = RowStream(take, pack, window_positions=window_positions)
    at = 0
    while at < len(lengths):
        taken = data.draw(st.integers(1, len(lengths) - at))
        stream.add(samples.part(at, at + taken))
        at += taken
    stream.finish()

    assert [length for window in windows for length in window] == lengths
    for window in windows[:-1]:
        assert sum(window[:-1]) < window_positions <= sum(window)
    for window in windows[-1:]:
        assert sum(window[:-1]) < window_positions
    if not lengths:
        return
    together = join_samples(rows)
    assert sum(counts) == together.batch.records == len(lengths)
    order = together.source_line
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert same(together, samples.take(order))
    assert same(together.take(np.argsort(order)), samples)


def test_without_packing_each_sample_becomes_a_row_immediately() -> None:
    seen: list[tuple[Samples, list[int]]] = []
    stream = RowStream(lambda some, per_row: seen.append((some, per_row.tolist())))
    nothing = join_batches([])
    batch, measures, _ = fit_samples(nothing, LAYOUT)
    samples = Samples(batch, measures, np.zeros(0, np.int64), np.zeros(0, np.int64), [])
    stream.add(samples)
    stream.finish()
    assert [(found is samples, counts) for found, counts in seen] == [(True, [])]
