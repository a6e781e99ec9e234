"""Samples: token ids, supervised flags and image positions of records, before image slots are inserted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_Ints = npt.NDArray[np.int64]


class Sample(NamedTuple):
    """One tokenized record, without image slots.

    Attributes:
        ids: shape (n,), int32.
        supervised: (start, end) spans of `ids`, ascending, not touching.
        image_at: for each image, in order, the number of ids before it; empty for text only.
    """

    ids: npt.NDArray[np.int32]
    supervised: list[tuple[int, int]]
    image_at: tuple[int, ...] = ()


class SampleBatch(NamedTuple):
    """The concatenated samples of n records with m images in total, without image slots.

    Attributes:
        ids: shape (total,), int32.
        supervised: shape (total,), bool.
        offsets: shape (n + 1,), int64: sample i has the ids `offsets[i]` to `offsets[i + 1]`.
        image_at: shape (m,), int64: number of ids of its sample before each image; ascending within a sample.
        image_offsets: shape (n + 1,), int64: sample i has the images `image_offsets[i]` to `image_offsets[i + 1]`.
    """

    ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    offsets: _Ints
    image_at: _Ints
    image_offsets: _Ints

    @property
    def records(self) -> int:
        """The number of samples, one per record."""
        return len(self.offsets) - 1

    def part(self, start: int, stop: int) -> SampleBatch:
        """Samples `start` to `stop`, exclusive."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        first_image, last_image = int(self.image_offsets[start]), int(self.image_offsets[stop])
        return SampleBatch(
            self.ids[first:last],
            self.supervised[first:last],
            self.offsets[start : stop + 1] - first,
            self.image_at[first_image:last_image],
            self.image_offsets[start : stop + 1] - first_image,
        )

    def without(self, left_out: Sequence[int]) -> SampleBatch:
        """All samples except those with the given indices."""
        kept = np.setdiff1d(np.arange(self.records), left_out)
        return join_batches([self.part(i, i + 1) for i in kept.tolist()])


def batch_of(sample: Sample) -> SampleBatch:
    """A batch of one sample."""
    supervised = np.zeros(len(sample.ids), dtype=np.bool_)
    for start, stop in sample.supervised:
        supervised[start:stop] = True
    return SampleBatch(
        sample.ids,
        supervised,
        np.array([0, len(sample.ids)]),
        np.array(sample.image_at, dtype=np.int64),
        np.array([0, len(sample.image_at)]),
    )


def empty_batch(count: int) -> SampleBatch:
    """`count` samples without ids and images."""
    nothing = np.zeros(count + 1, np.int64)
    return SampleBatch(np.zeros(0, np.int32), np.zeros(0, np.bool_), nothing, nothing[:0], nothing)


def join_batches(batches: Sequence[SampleBatch]) -> SampleBatch:
    """Concatenate batches."""
    batches = [empty_batch(0), *batches]
    return SampleBatch(
        np.concatenate([batch.ids for batch in batches]),
        np.concatenate([batch.supervised for batch in batches]),
        _offsets([batch.offsets for batch in batches]),
        np.concatenate([batch.image_at for batch in batches]),
        _offsets([batch.image_offsets for batch in batches]),
    )


def _offsets(parts: Sequence[_Ints]) -> _Ints:
    """Concatenate offset arrays that each begin at 0."""
    return np.cumsum(np.concatenate([np.zeros(1, np.int64), *(np.diff(part) for part in parts)]))
