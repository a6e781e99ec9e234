"""Pack samples into rows by best-fit decreasing, in memory, using their lengths and image counts only.

Best-fit decreasing takes the samples from the longest to the shortest and puts each into the fullest row that still
has room for it, or into a new row (Johnson, "Near-Optimal Bin Packing Algorithms", MIT, 1973). Ding et al., "Fewer
Truncations Improve Language Modeling" (ICML 2024), apply it to training data.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdf5_writer.planning.shuffle import derived_seed, permuted

_Ints = npt.NDArray[np.int64]
# The free space of a row and its number are combined into one integer, so that a search in a sorted list finds the
# fullest row with enough space and, among equally full rows, the oldest.
_ROW_BITS = 40
_ROWS = (1 << _ROW_BITS) - 1
_NONE = 1 << 80


class Packed(NamedTuple):
    """The assignment of n samples to rows.

    Attributes:
        order: (n,) int64, sample numbers, row by row.
        samples_per_row: (rows,) int64, number of samples in each row; their sum is n.
    """

    order: _Ints
    samples_per_row: _Ints


def best_fit_decreasing(
    lengths: Sequence[int], images: Sequence[int], capacity: int, max_images: int | None
) -> list[int]:
    """Return the row of each sample; rows are numbered in the order in which they are created.

    Args:
        lengths: positions of each sample, from 1 to `capacity`; ties are broken by the order in this list.
        images: number of images of each sample, at most `max_images`.
        capacity: positions in a row.
        max_images: maximum number of images in a row; None for no limit.
    """
    bounded = max_images is not None
    if max_images is None:
        images, max_images = [0] * len(lengths), 0
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)  # stable
    shortest = min(lengths, default=0)
    # Indexed by the number of images in a row: (free space, row) of the rows that can take another sample.
    spaces: list[list[int]] = [[] for _ in range(max_images + 1)]
    highest = 0  # all lists after this index are empty
    rows = [0] * len(lengths)
    begun = at = 0
    while at < len(order):
        sample = order[at]
        at += 1
        length, count = lengths[sample], images[sample]
        wanted = length << _ROW_BITS
        best, held, best_at = _NONE, 0, -1
        for having in range(min(highest, max_images - count) + 1):
            found = spaces[having]
            place = bisect_left(found, wanted)
            if place < len(found) and found[place] < best:
                best, held, best_at = found[place], having, place
        if best_at < 0:
            best = capacity << _ROW_BITS | begun
            begun += 1
        else:
            del spaces[held][best_at]
        row = rows[sample] = best & _ROWS
        best -= wanted
        # This row is still the fullest one that fits, so samples of the same length go into it while there is room.
        while not bounded and best >= wanted and at < len(order) and lengths[order[at]] == length:
            rows[order[at]] = row
            at += 1
            best -= wanted
        if best >> _ROW_BITS >= shortest:
            held += count
            insort(spaces[held], best)
            if held > highest:
                highest = held
    return rows


def pack_samples(
    lengths: _Ints, images: _Ints, capacity: int, max_images: int | None, key: tuple[int, int, int] | None
) -> Packed:
    """Pack the samples of a window.

    Args:
        lengths: (n,) int64, positions of each sample, in record order.
        images: (n,) int64, number of images of each sample.
        capacity: positions in a row.
        max_images: maximum number of images in a row; None for no limit.
        key: (seed, task, window) that determines the random order of the rows; None sorts the rows by their first
            record. Within a row, samples are always in record order.
    """
    rows = np.array(best_fit_decreasing(lengths.tolist(), images.tolist(), capacity, max_images), dtype=np.int64)
    # Renumber the rows by their first sample.
    _, first, numbered = np.unique(rows, return_index=True, return_inverse=True)
    count = len(first)
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(count)
    if key is not None:
        rank = permuted(0, count, count, derived_seed(*key))[rank]
    place = rank[numbered]
    return Packed(np.argsort(place, kind="stable"), np.bincount(place, minlength=count))
