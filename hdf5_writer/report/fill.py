"""Estimate the fill of rows at another maximum sequence length, with one sample per row or packed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdf5_writer.planning.pack import best_fit_decreasing

_Ints = npt.NDArray[np.int64]


class Fill(NamedTuple):
    """Fill of rows at one maximum sequence length.

    Attributes:
        max_sequence_length: positions in a row.
        unpacked, packed: attended share of all positions, with one sample per row and with best-fit packing.
        samples_per_row: mean number of samples in a packed row.
    """

    max_sequence_length: int
    unpacked: float
    packed: float
    samples_per_row: float


def expected_fill(attended: _Ints, images: _Ints, length: int, dummy_slots: int, max_images: int | None) -> Fill:
    """Compute the fill of rows of the given length.

    Args:
        attended: (n,) int64 with n >= 1, positions of each sample without dummy slots; longer samples are truncated.
        images: (n,) int64, number of images of each sample.
        length: positions in a row.
        dummy_slots: dummy slots of a text-only row if rows hold one sample.
        max_images: maximum number of images in a packed row; None for no limit.
    """
    cut = np.minimum(attended, length)
    alone = np.where(images > 0, cut, np.minimum(attended, max(length - dummy_slots, 0)))
    rows = max(best_fit_decreasing(cut.tolist(), images.tolist(), length, max_images)) + 1
    count = len(attended)
    return Fill(length, float(alone.sum()) / (count * length), float(cut.sum()) / (rows * length), count / rows)
