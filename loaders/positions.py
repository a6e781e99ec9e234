"""Compute `position_ids`, `segment_ids` and the bounds for variable-length attention from the samples of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loaders.blocks import Array


class Runs(NamedTuple):
    """The R runs of a batch in order: the samples of each row, followed by its padding.

    Attributes:
        segments: (R,) int32: 1, 2, … for the samples of a row, 0 for its padding.
        lengths: (R,) positions; their sum is rows times positions in a row, and padding may have length 0.
    """

    segments: Array
    lengths: Array


def runs_of(offsets: Array, lengths: Array, row_length: int) -> Runs:
    """Return the runs of rows whose samples start at position 0 and have no gaps.

    Args:
        offsets: (rows + 1,): row r has the samples `offsets[r]` … `offsets[r + 1] - 1`.
        lengths: (samples,) positions of each sample.
        row_length: positions in a row, at least the total length of the samples of any row.
    """
    first, end = offsets[:-1], offsets[1:]
    segments = np.arange(1, len(lengths) + 1, dtype=np.int32) - np.repeat(first, end - first).astype(np.int32)
    taken = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    padding = row_length - (taken[end] - taken[first])
    return Runs(np.insert(segments, end, 0), np.insert(lengths.astype(np.int64), end, padding))


def segment_ids(runs: Runs, row_length: int) -> Array:
    """Return the segment of each position, (rows, row_length) int32."""
    return np.repeat(runs.segments, runs.lengths).reshape(-1, row_length)


def position_ids(runs: Runs, row_length: int) -> Array:
    """Return positions that count from 0 in each sample and in the padding, (rows, row_length) int32.

    If padding were all 0, code that takes each 0 as the start of a sample would find one at every padding position.
    """
    ends = np.cumsum(runs.lengths)
    counted = np.arange(ends[-1] if len(ends) else 0, dtype=np.int32)
    counted -= np.repeat((ends - runs.lengths).astype(np.int32), runs.lengths)
    return counted.reshape(-1, row_length)


def sequence_bounds(runs: Runs) -> tuple[Array, int]:
    """Return the bounds of the runs in the flattened batch, (runs + 1,) int32, and the length of the longest run."""
    lengths = runs.lengths[runs.lengths > 0]
    bounds = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return bounds, int(lengths.max(initial=0))
