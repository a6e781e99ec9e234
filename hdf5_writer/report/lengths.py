"""Histograms of sample lengths, and estimates for other values of max_sequence_length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdf5_writer.report.fill import expected_fill

LENGTHS_TO_TRY = (512, 1024, 2048, 4096, 8192)
_STEP, _SHARE_KEPT = 64, 0.999
_MAX_PACKED = 10_000  # the default shard size; more samples would not fill rows better
# Attention costs as much as the linear layers of a decoder block at 6 times the hidden size (4·n·h against 24·h² per
# token and block); 4096 is that of a 7B Llama.
ATTENTION_EQUALS_LINEAR = 6 * 4096

_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lengths:
    """Histograms of the positions of samples, including the dummy slots of fixed text-only rows.

    Attributes:
        with_image, text_only: (max_sequence_length + 1,) int64; element i counts samples with i positions.
        text_tokens: the same shape; element i counts samples with i text tokens.
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
        """Histogram of the positions of all samples."""
        return self.with_image + self.text_only

    @property
    def dummy_slots(self) -> int:
        """Positions of a text-only sample that are dummy image slots."""
        return 0 if self.image_start_idx is None else self.num_patches

    @property
    def min_length(self) -> int:
        """Number of positions that an image and one token need."""
        return (self.image_start_idx or 0) + self.num_patches + 1

    def add(self, positions: npt.NDArray[np.int32], images: _Counts) -> _Counts:
        """Add the samples of a shard by positions and images; return the text tokens of each sample, (n,) int64."""
        lengths, size = positions.astype(np.int64), len(self.with_image)
        self.with_image[:] += np.bincount(lengths[images > 0], minlength=size)
        self.text_only[:] += np.bincount(lengths[images == 0], minlength=size)
        text_tokens = lengths - np.where(images > 0, images * self.num_patches, self.dummy_slots)
        self.text_tokens[:] += np.bincount(text_tokens, minlength=size)
        return text_tokens


def empty_lengths(max_sequence_length: int, num_patches: int, image_start_idx: int | None) -> Lengths:
    """Return histograms without samples."""
    zeros = np.zeros((3, max_sequence_length + 1), dtype=np.int64)
    return Lengths(zeros[0], zeros[1], zeros[2], num_patches, image_start_idx)


@dataclass(frozen=True)
class OtherLength:
    """Estimates for one value of max_sequence_length.

    Attributes:
        max_sequence_length: the value.
        is_current: whether it is the value of the dataset.
        is_recommended: whether it is the recommended value; see `recommended_length`.
        fits: whether an image and one token fit; otherwise all numbers are 0.
        rows_cut: number of longer samples.
        padding_share: share of unattended positions with one sample per row, including dummy slots of text-only rows.
        packed_padding_share: the same with packed rows.
        samples_per_row: mean number of samples in a packed row.
        speed: estimated training rows per second, relative to the current value.
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
    """Return estimates for 512 … 8192, the current and the recommended length, in ascending order."""
    current, recommended = lengths.max_sequence_length, recommended_length(lengths)
    tried = {*LENGTHS_TO_TRY, current} | ({recommended} if recommended else set())
    return [at_length(lengths, length, is_recommended=length == recommended) for length in sorted(tried)]


def recommended_length(lengths: Lengths) -> int | None:
    """Return the smallest multiple of 64 that truncates at most 0.1 % of the samples; None if it cannot be determined.

    It cannot be determined without samples, or if more than 0.1 % of the samples have the current maximum length, since
    most of these were truncated.
    """
    longest = quantiles(lengths.used, (_SHARE_KEPT,))
    if not longest or longest[0] >= lengths.max_sequence_length:
        return None
    return -(-max(longest[0], lengths.min_length) // _STEP) * _STEP


def at_length(lengths: Lengths, length: int, *, is_recommended: bool = False) -> OtherLength:
    """Return the estimates for one length.

    Truncated samples count with their truncated length, since their original length is not stored.
    """
    current = lengths.max_sequence_length
    is_current = length == current
    if length < lengths.min_length:
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
    """Return attended positions and number of images (0 or 1) of at most `_MAX_PACKED` evenly chosen samples."""
    used = np.arange(len(lengths.used))
    attended = np.concatenate((used, np.maximum(used - lengths.dummy_slots, 1)))
    with_image = np.repeat((1, 0), len(used))
    below = np.cumsum(np.concatenate((lengths.with_image, lengths.text_only)))
    count = min(int(below[-1]), _MAX_PACKED)
    chosen = np.searchsorted(below, np.arange(count) * int(below[-1]) // max(count, 1), side="right")
    return attended[chosen], with_image[chosen]


def training_cost(length: int) -> float:
    """Return the training cost of a row, in units of the linear layers' cost for one position."""
    return length * (1 + length / ATTENTION_EQUALS_LINEAR)


def quantiles(histogram: _Counts, shares: tuple[float, ...]) -> list[int]:
    """Return the quantiles of a histogram at the given shares; empty if the histogram is empty."""
    total = int(histogram.sum())
    if not total:
        return []
    below = np.cumsum(histogram)
    return [int(np.searchsorted(below, max(1, int(np.ceil(share * total))))) for share in shares]
