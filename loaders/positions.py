"""Where the samples of each row lie → `position_ids`, `segment_ids` and the bounds of variable-length attention."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loaders.blocks import Array


class Runs(NamedTuple):
    """What the rows of a batch are made of, one behind the other: samples, and the padding of a row as one more.

    Attributes:
        segments: (R,) int32, 1, 2, … for each sample of a row, 0 for its padding.
        lengths: (R,) positions, whose sum is rows times positions in a row; those of padding can be 0.
    """

    segments: Array
    lengths: Array


def runs_of(offsets: Array, lengths: Array, row_length: int) -> Runs:
    """The runs of rows whose samples begin at position 0 and follow each other without gaps.

    Args:
        offsets: (rows + 1,): row r has the samples `offsets[r]` … `offsets[r + 1] - 1`.
        lengths: (samples,) positions of each.
        row_length: positions in a row, no less than the samples of any row take.
    """
    first, behind = offsets[:-1], offsets[1:]
    segments = np.arange(1, len(lengths) + 1, dtype=np.int32) - np.repeat(first, behind - first).astype(np.int32)
    taken = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    padding = row_length - (taken[behind] - taken[first])
    return Runs(np.insert(segments, behind, 0), np.insert(lengths.astype(np.int64), behind, padding))


def segment_ids(runs: Runs, row_length: int) -> Array:
    """(rows, row_length) int32: the segment of each position."""
    return np.repeat(runs.segments, runs.lengths).reshape(-1, row_length)


def position_ids(runs: Runs, row_length: int) -> Array:
    """(rows, row_length) int32: counts from 0 in each sample, and in padding.

    Were padding all 0, code that takes each 0 for the begin of a sample would find one at every position of it.
    """
    ends = np.cumsum(runs.lengths)
    counted = np.arange(ends[-1] if len(ends) else 0, dtype=np.int32)
    counted -= np.repeat((ends - runs.lengths).astype(np.int32), runs.lengths)
    return counted.reshape(-1, row_length)


def sequence_bounds(runs: Runs) -> tuple[Array, int]:
    """Bounds of the runs in the flattened batch, (runs + 1,) int32 from 0 to all its positions, and the longest."""
    lengths = runs.lengths[runs.lengths > 0]
    bounds = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return bounds, int(lengths.max(initial=0))
