"""Which samples share a row: best-fit decreasing, in memory, from lengths alone.

Best-fit decreasing takes the samples from the longest to the shortest and puts each into the fullest row that still
has room for it, or into a new one (Johnson, "Near-Optimal Bin Packing Algorithms", MIT, 1973). "Fewer Truncations
Improve Language Modeling" (Ding et al., ICML 2024) brought it to training data.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdf5_writer.planning.shuffle import derived_seed, permuted

_Ints = npt.NDArray[np.int64]
# A space and the row that has it are one number, so that a sorted list of them finds the fullest row, then the oldest.
_ROW_BITS = 40
_ROWS = (1 << _ROW_BITS) - 1
_NONE = 1 << 80


class Packed(NamedTuple):
    """Samples in rows.

    Attributes:
        order: numbers of the samples, row by row, (n,).
        samples_per_row: (rows,); they add up to n.
    """

    order: _Ints
    samples_per_row: _Ints


def best_fit_decreasing(
    lengths: Sequence[int], images: Sequence[int], capacity: int, most_images: int | None
) -> list[int]:
    """The row of each sample, rows counted in the order in which they are begun.

    Args:
        lengths: positions of each sample, from 1 to `capacity`; equal ones go by their order here.
        images: images of each sample, at most `most_images`.
        capacity: positions of a row.
        most_images: images that a row may hold; None for any number.
    """
    bounded = most_images is not None
    if most_images is None:
        images, most_images = [0] * len(lengths), 0
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)  # stable
    shortest = min(lengths, default=0)
    # By the number of images a row holds: (space, row) of those with room for one more sample.
    spaces: list[list[int]] = [[] for _ in range(most_images + 1)]
    highest = 0  # lists beyond are empty
    rows = [0] * len(lengths)
    begun = at = 0
    while at < len(order):
        sample = order[at]
        at += 1
        length, count = lengths[sample], images[sample]
        wanted = length << _ROW_BITS
        best, held, best_at = _NONE, 0, -1
        for having in range(min(highest, most_images - count) + 1):
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
        # What is left of the fullest row with room is fuller still: samples of the same length follow while they fit.
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
    lengths: _Ints, images: _Ints, capacity: int, most_images: int | None, key: tuple[int, int, int] | None
) -> Packed:
    """Pack the samples of a window.

    Args:
        lengths: positions of each sample, (n,), in the order of their records.
        images: images of each sample, (n,).
        capacity: positions of a row.
        most_images: images that a row may hold; None for any number.
        key: (seed, task, window), which gives the rows their order; None leaves them in the order of the first record
            of each. Within a row, samples stand in the order of their records.
    """
    rows = np.array(best_fit_decreasing(lengths.tolist(), images.tolist(), capacity, most_images), dtype=np.int64)
    # Renumber the rows by their first sample.
    _, first, numbered = np.unique(rows, return_index=True, return_inverse=True)
    count = len(first)
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(count)
    if key is not None:
        rank = permuted(0, count, count, derived_seed(*key))[rank]
    place = rank[numbered]
    return Packed(np.argsort(place, kind="stable"), np.bincount(place, minlength=count))
