"""Layouts and samples of all kinds for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from hdf5_writer.rows import RowLayout
from preprocess.samples import Sample

PAD = 7


@st.composite
def fixed_layouts(draw: st.DrawFn) -> RowLayout:
    start, slots = draw(st.integers(0, 4)), draw(st.integers(1, 5))
    length = draw(st.integers(start + slots + 1, start + slots + 12))
    return RowLayout(length, slots, start, draw(st.sampled_from([PAD, 0])), truncate=True)


@st.composite
def free_layouts(draw: st.DrawFn) -> RowLayout:
    return RowLayout(draw(st.integers(4, 40)), draw(st.integers(1, 5)), None, PAD, truncate=True)


def supervised_spans(flags: list[bool]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.array([0, *flags, 0], dtype=np.int8))).tolist()
    return list(zip(edges[0::2], edges[1::2], strict=True))


@st.composite
def samples_for(draw: st.DrawFn, layout: RowLayout) -> Sample:
    """In fixed rows, at most one image at its position, with nothing supervised before it; in free rows, any."""
    start = layout.image_start_idx
    least = 2 if start is None else start + 2
    ids = draw(st.lists(st.integers(0, 50), min_size=least, max_size=least + 20))
    flags = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    if start is None:
        image_at = tuple(sorted(draw(st.lists(st.integers(0, len(ids) - 1), max_size=4))))
    else:
        image_at = (start,) if draw(st.booleans()) else ()
        first = start + (not image_at)
        flags = [False] * first + flags[first:]
    return Sample(np.array(ids, dtype=np.int32), supervised_spans(flags), image_at)
