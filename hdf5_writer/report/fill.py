"""How full rows would be at another maximum sequence length, one sample a row or packed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdf5_writer.planning.pack import best_fit_decreasing

_Ints = npt.NDArray[np.int64]


class Fill(NamedTuple):
    """Rows of some samples at one length.

    Attributes:
        max_sequence_length: positions in a row.
        unpacked, packed: share of all positions that is attended, one sample a row and by best fit.
        samples_per_row: packed.
    """

    max_sequence_length: int
    unpacked: float
    packed: float
    samples_per_row: float


def expected_fill(attended: _Ints, images: _Ints, length: int, dummy_slots: int, most_images: int | None) -> Fill:
    """What rows of a length would be like.

    Args:
        attended: positions of each sample without dummy slots, (n,), n at least 1; longer ones are cut to `length`.
        images: of each sample, (n,).
        length: positions in a row.
        dummy_slots: of a text-only row with one sample a row.
        most_images: images that a packed row may hold; None for any number.
    """
    cut = np.minimum(attended, length)
    alone = np.where(images > 0, cut, np.minimum(attended, max(length - dummy_slots, 0)))
    rows = max(best_fit_decreasing(cut.tolist(), images.tolist(), length, most_images)) + 1
    count = len(attended)
    return Fill(length, float(alone.sum()) / (count * length), float(cut.sum()) / (rows * length), count / rows)
