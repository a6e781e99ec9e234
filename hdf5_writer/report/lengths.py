"""Lengths of samples, and what another maximum sequence length would make of their rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdf5_writer.report.fill import expected_fill

LENGTHS_TO_TRY = (512, 1024, 2048, 4096, 8192)
_STEP, _SHARE_KEPT = 64, 0.999
_MOST_PACKED = 10_000  # as many as a shard has by default; more would fill rows no better
# Attention costs as much as the linear layers of a decoder block at 6 times the hidden size (4·n·h against 24·h² per
# token and block); 4096 is that of a 7B Llama.
ATTENTION_EQUALS_LINEAR = 6 * 4096

_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lengths:
    """Samples by the positions they take, the dummy slots of a fixed text-only row among them.

    Attributes:
        with_image, text_only: shape (max_sequence_length + 1,), int64; element i counts samples of i positions.
        text_tokens: of the same shape; element i counts samples of i tokens of text.
        num_patches: slots of an image.
        image_start_idx: position of the first slot in fixed rows; None for free rows.
    """

    with_image: _Counts
    text_only: _Counts
    text_tokens: _Counts
    num_patches: int
    image_start_idx: int | None

    @property
    def max_sequence_length(self) -> int:
        """Positions in a row."""
        return len(self.with_image) - 1

    @property
    def used(self) -> _Counts:
        """All samples by their positions."""
        return self.with_image + self.text_only

    @property
    def dummy_slots(self) -> int:
        """Positions of a text-only sample that are not attended."""
        return 0 if self.image_start_idx is None else self.num_patches

    @property
    def least(self) -> int:
        """Positions that a row needs for an image and one token."""
        return (self.image_start_idx or 0) + self.num_patches + 1

    def add(self, positions: npt.NDArray[np.int32], images: _Counts) -> _Counts:
        """Count the samples of a shard, by their positions and images; their tokens of text."""
        lengths, size = positions.astype(np.int64), len(self.with_image)
        self.with_image[:] += np.bincount(lengths[images > 0], minlength=size)
        self.text_only[:] += np.bincount(lengths[images == 0], minlength=size)
        text_tokens = lengths - np.where(images > 0, images * self.num_patches, self.dummy_slots)
        self.text_tokens[:] += np.bincount(text_tokens, minlength=size)
        return text_tokens


def empty_lengths(max_sequence_length: int, num_patches: int, image_start_idx: int | None) -> Lengths:
    """No samples yet."""
    zeros = np.zeros((3, max_sequence_length + 1), dtype=np.int64)
    return Lengths(zeros[0], zeros[1], zeros[2], num_patches, image_start_idx)


@dataclass(frozen=True)
class OtherLength:
    """The same rows at another maximum sequence length.

    Attributes:
        max_sequence_length: the length.
        is_current: it is that of the dataset.
        is_recommended: it is the smallest multiple of 64 that keeps 99.9 % of the rows whole.
        fits: the image and one token fit into it; otherwise all numbers are 0.
        rows_cut: samples of more positions.
        padding_share: of all positions, those that are not attended, with one sample a row; a text-only row's dummy
            slots are among them.
        packed_padding_share: the same of packed rows.
        samples_per_row: of packed rows.
        speed: rows per second of training, as a multiple of what they are now.
    """

    max_sequence_length: int
    is_current: bool
    is_recommended: bool
    fits: bool
    rows_cut: int
    padding_share: float
    packed_padding_share: float
    samples_per_row: float
    speed: float


def other_lengths(lengths: Lengths) -> list[OtherLength]:
    """The rows at 512 … 8192, at the length they have and at the one to recommend, ascending."""
    current, recommended = lengths.max_sequence_length, recommended_length(lengths)
    tried = {*LENGTHS_TO_TRY, current} | ({recommended} if recommended else set())
    return [at_length(lengths, length, is_recommended=length == recommended) for length in sorted(tried)]


def recommended_length(lengths: Lengths) -> int | None:
    """The smallest multiple of 64 that keeps 99.9 % of the rows whole; None where that cannot be known.

    That is so without rows, and where more than 0.1 % of the rows fill the length they have: most were cut to it.
    """
    longest = quantiles(lengths.used, (_SHARE_KEPT,))
    if not longest or longest[0] >= lengths.max_sequence_length:
        return None
    return -(-max(longest[0], lengths.least) // _STEP) * _STEP


def at_length(lengths: Lengths, length: int, *, is_recommended: bool = False) -> OtherLength:
    """The rows at one other length.

    Rows that the dataset has cut already count with the length they were cut to: how long they were is not on disk.
    """
    current = lengths.max_sequence_length
    is_current = length == current
    if length < lengths.least:
        return OtherLength(length, is_current, is_recommended, False, 0, 0.0, 0.0, 0.0, 0.0)
    used = np.arange(current + 1)
    kept = np.minimum(used, length)
    rows = int(lengths.used.sum())
    attended = int(kept @ lengths.with_image + np.maximum(kept - lengths.dummy_slots, 0) @ lengths.text_only)
    attended_by_sample, images = _some_samples(lengths)
    packed = expected_fill(attended_by_sample, images, length, lengths.dummy_slots, None) if rows else None
    return OtherLength(
        max_sequence_length=length,
        is_current=is_current,
        is_recommended=is_recommended,
        fits=True,
        rows_cut=int(lengths.used[length + 1 :].sum()),
        padding_share=1 - attended / (rows * length) if rows else 0.0,
        packed_padding_share=1 - packed.packed if packed else 0.0,
        samples_per_row=packed.samples_per_row if packed else 0.0,
        speed=training_cost(current) / training_cost(length),
    )


def _some_samples(lengths: Lengths) -> tuple[_Counts, _Counts]:
    """Attended positions of at most `_MOST_PACKED` samples, spread evenly over all, and 1 where one has an image."""
    used = np.arange(len(lengths.used))
    attended = np.concatenate((used, np.maximum(used - lengths.dummy_slots, 1)))
    with_image = np.repeat((1, 0), len(used))
    below = np.cumsum(np.concatenate((lengths.with_image, lengths.text_only)))
    count = min(int(below[-1]), _MOST_PACKED)
    chosen = np.searchsorted(below, np.arange(count) * int(below[-1]) // max(count, 1), side="right")
    return attended[chosen], with_image[chosen]


def training_cost(length: int) -> float:
    """Work of one row of so many positions, in the unit of the linear layers for one position."""
    return length * (1 + length / ATTENTION_EQUALS_LINEAR)


def quantiles(histogram: _Counts, shares: tuple[float, ...]) -> list[int]:
    """For each share, the smallest value that so large a share of the rows does not exceed; empty without rows."""
    total = int(histogram.sum())
    if not total:
        return []
    below = np.cumsum(histogram)
    return [int(np.searchsorted(below, max(1, int(np.ceil(share * total))))) for share in shares]
